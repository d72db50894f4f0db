"""What mlx-lm takes while it reads a prompt, against peaks that it printed on Apple's chips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn

ROWS = [json.loads(line) for line in Path("accuracy/cases/mlx_peaks.jsonl").read_text().splitlines()]
SMALL = {
    "model_type": "llama", "hidden_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 2,
    "num_hidden_layers": 8, "intermediate_size": 4096, "vocab_size": 4096, "max_position_embeddings": 131072,
    "architectures": ["LlamaForCausalLM"],
}  # fmt: skip


def line(model: Any, **said: Any) -> Any:
    result = tn.serve(tn.load(model), engine="mlx", dtype="bf16", quant="none", suggest=False, **said)
    return next(c for c in result.components if c.name == "activations")


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r["id"])
def test_measured_peaks_are_within_the_range(row: dict[str, Any]) -> None:
    asked = row["model"] if isinstance(row["model"], str) else row["model"]["config"]
    said = {k: v for k, v in row["workload"].items() if k not in ("task", "engine")}
    rank = tn.serve(tn.load(asked), engine="mlx", suggest=False, **said).fullest
    assert rank.tier("device", "low_bytes") <= row["measured"]["value"] * 1e9 <= rank.tier("device", "high_bytes")


def test_heads_that_no_kernel_takes_make_their_scores_once() -> None:
    # 8 heads x 2,048 tokens of a step x 65,536 tokens x 2 B, and a mask of a byte for each pair of tokens.
    scores = 2048 * 65536 * (8 * 2 + 1)
    wide = line({**SMALL, "head_dim": 256}, context=65536)
    assert scores < wide.low_bytes < scores * 1.05
    assert line({**SMALL, "head_dim": 128}, context=65536).low_bytes < scores / 10


def test_the_range_follows_the_step_and_not_the_depth() -> None:
    base = {**SMALL, "head_dim": 128}
    short, long = line(base, context=65536, prefill_step_size=512), line(base, context=65536)
    assert long.low_bytes == 4 * short.low_bytes
    deep = line({**base, "num_hidden_layers": 80}, context=65536)
    deeper = line({**base, "num_hidden_layers": 160}, context=65536)
    assert (deep.low_bytes, deep.bytes, deep.high_bytes) == (deeper.low_bytes, deeper.bytes, deeper.high_bytes)
    assert long.low_bytes <= long.bytes <= long.high_bytes
