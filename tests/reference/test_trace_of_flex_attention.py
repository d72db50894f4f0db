"""Flex attention as transformers calls it: traces against the closed form."""

from __future__ import annotations

from typing import Any

import pytest
import test_trace_against_the_closed_form
from test_trace_against_the_closed_form import CATEGORISED_OTHERWISE, SHAPE, compared
from tracing_cases import CONFIGS, kernel_settings

import tonnage as tn
from tonnage.estimate.flexible import WITH_FLEX

FLEX: dict[str, Any] = SHAPE | {"attention": "flex"}
DROPPED = ("attention_dropout", "residual_dropout")
SETTINGS = kernel_settings("fp32")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", sorted(WITH_FLEX))
def test_every_family_is_what_its_code_does(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIGS[family] | {key: 0.0 for key in DROPPED if key in CONFIGS[family]}
    if family in CATEGORISED_OTHERWISE:
        for name in ("lines_of", "lines_of_trace"):
            monkeypatch.setattr(test_trace_against_the_closed_form, name, lambda found: None)
    compared(config, FLEX, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi"])
def test_every_setting_is_what_the_code_does(family: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "lora" in setting:
        pytest.importorskip("peft")
    if (family, setting) == ("gemma3_text", "mixed"):
        pytest.skip("two of its instants reach the same level, with sdpa as well, and their lines differ")
    compared(CONFIGS[family], FLEX | SETTINGS[setting], monkeypatch)


HEADS: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 48, "intermediate_size": 32, "num_hidden_layers": 3, "head_dim": 128,
    "vocab_size": 64, "max_position_embeddings": 1024, "pad_token_id": None,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["bf16", "fp32", "bf16-mixed"])
@pytest.mark.parametrize("heads", [(8, 8), (8, 2), (12, 4)])
def test_where_attention_decides_the_peak(heads: tuple[int, int], precision: str, monkeypatch: Any) -> None:
    config = HEADS | {"num_attention_heads": heads[0], "num_key_value_heads": heads[1]}
    said = FLEX | {"seq": 512, "precision": precision}
    compared(config, said, monkeypatch)
    assert "layer" in tn.train({"config": config}, suggest=False, **said).peak.name


@pytest.mark.filterwarnings("ignore")
def test_code_of_ones_own_that_compiles_it() -> None:
    """By hand, of 2 x 300 tokens, 8 heads over 2 of width 64: torch's own names, compiled or not."""
    import torch
    from torch.nn.attention import flex_attention as package

    from tonnage.tracing.context import Tracing

    before = package.flex_attention
    with Tracing(backend="meta") as t:
        attend = torch.compile(package.flex_attention)
        blocks = package.create_block_mask(lambda b, h, i, j: i >= j, 2, None, 300, 300, device="meta")
        q, k, v = (torch.empty(2, n, 300, 64, dtype=torch.bfloat16, requires_grad=True) for n in (8, 2, 2))
        with pytest.raises(NotImplementedError, match="without torch"):
            package.flex_attention(q, k, v, enable_gqa=True)
        with pytest.raises(ValueError, match="enable_gqa"):
            attend(q, k, v)
        out, lse = attend(q, k, v, block_mask=blocks, enable_gqa=True, return_lse=True)
        assert (out.shape, lse.shape) == (q.shape, (2, 8, 300))
        (out.sum() + lse.sum()).backward()
    assert package.flex_attention is before
    traced = t.trace()
    assert traced.told["kernels"] == {"flex": 1}
    assert traced.told["caveat"] is None
    rows, heads = 4 * 2 * 8 * 300, 2 * 2 * 8 * 300 * 64
    assert [b.size for b in traced.born if "flex" in b.op] == [rows, rows, heads]
    own = [b.size for b in traced.born if b.node == "CompiledBackward"]
    # The gradients of sums are one number seen as many, and laid out first.
    assert own == [heads, rows, rows, heads, heads // 4, heads // 4]
