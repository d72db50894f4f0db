"""Encoders as they are served: no cache, one pass over whole sequences, equal to traces of transformers 5.23.0."""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn
from tonnage.estimate.serving import Run, Session
from tonnage.families import model_from

SMALL = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 8, "vocab_size": 1024,
}  # fmt: skip
TRACED = [
    ("bert", SMALL, "fp32", "efficient", 12_382_208),
    ("bert", SMALL, "bf16", "flash", 6_199_296),
    ("roberta", {**SMALL, "max_position_embeddings": 514}, "fp32", "efficient", 12_384_288),
    ("xlm-roberta", {**SMALL, "max_position_embeddings": 514}, "bf16", "flash", 6_200_352),
    ("electra", {**SMALL, "embedding_size": 128}, "fp32", "efficient", 11_593_216),
    ("nomic_bert", SMALL, "fp32", "efficient", 14_546_048),
    ("gte", SMALL, "bf16", "flash", 7_266_944),
    ("jina_embeddings_v3", SMALL, "fp32", "efficient", 12_567_712),
    ("modernbert", {**SMALL, "local_attention": 64}, "bf16", "flash", 8_663_296),
    ("eurobert", {**SMALL, "num_key_value_heads": 2}, "bf16", "flash", 7_054_976),
    ("ultrabert", {**SMALL, "num_key_value_heads": 8, "sliding_window": 64}, "bf16", "flash", 8_529_664),
]
"""Type, config, format, kernel, and the highest point of a pass over 2 x 256 tokens with a masked-LM head. [byte]"""


@pytest.mark.parametrize(("kind", "config", "dtype", "kernel", "peak"), TRACED)
def test_a_pass_peaks_where_the_trace_does(
    kind: str, config: dict[str, Any], dtype: str, kernel: Any, peak: int
) -> None:
    session = Session(
        dtype=dtype, kernel=kernel, sequences=2, context=256, prompt=256, logits="all", latent=True, workspace=0
    )
    run = Run(model_from({"model_type": kind, **config}, head="masked"), session)
    assert max(m.highest for m in run.moments()) == peak


def test_an_encoder_keeps_no_cache() -> None:
    found = tn.serve("bert-base-uncased", context=512, concurrency=32)
    assert not [c for c in found.components if c.name == "kv_cache"]
    assert found.capacity is not None
    assert found.capacity["kv_bytes"] == 0
