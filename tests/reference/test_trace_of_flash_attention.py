"""flash-attn's own kernels, which transformers calls: traces against the closed form, and its buffers by hand."""

from __future__ import annotations

from typing import Any

import pytest
import test_trace_against_the_closed_form
from test_trace_against_the_closed_form import CATEGORISED_OTHERWISE, SHAPE, compared
from tracing_cases import CONFIGS, FAMILIES, kernel_settings, traced

import tonnage as tn
from tonnage.errors import TonnageError
from tonnage.estimate.settle import OWN_FLASH, WITHOUT_FLASH
from tonnage.tracing.stream import SCRATCH

FLASH: dict[str, Any] = SHAPE | {"attention": "flash_attention_2"}
SETTINGS = kernel_settings("fp16")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_what_its_code_does(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        tn.train({"config": CONFIGS[family]}, suggest=False, **FLASH)
    except TonnageError as e:
        pytest.skip(str(e))
    if family in CATEGORISED_OTHERWISE:
        for name in ("lines_of", "lines_of_trace"):
            monkeypatch.setattr(test_trace_against_the_closed_form, name, lambda found: None)
    compared(CONFIGS[family], FLASH, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "bert"])
def test_every_setting_is_what_the_code_does(family: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "lora" in setting:
        pytest.importorskip("peft")
        if family == "bert":
            pytest.skip("its layers have other names")
    if (family, setting) == ("gemma3_text", "mixed"):
        pytest.skip("two of its instants reach the same level, with sdpa as well, and their lines differ")
    compared(CONFIGS[family], FLASH | SETTINGS[setting], monkeypatch)


def test_what_transformers_says_of_its_classes() -> None:
    import transformers
    from transformers.models.auto import modeling_auto as auto

    kinds = {**auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, **auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    kinds |= auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    found = {kind: getattr(transformers, name) for kind, name in kinds.items()}
    without = {kind for kind, c in found.items() if c._supports_sdpa and not c._supports_flash_attn}
    assert without == WITHOUT_FLASH
    restricted = {kind for kind, c in found.items() if c._compatible_flash_implementations}
    assert restricted & {kind for kind, c in found.items() if c._supports_sdpa} <= WITHOUT_FLASH


SIZES = {
    # release, capability: what the backward pass of 2 x 300 tokens, 8 heads over 2 of width 64, takes at its kernel
    ("flash_attention_2", (8, 0)): [
        4 * 2 * 8 * 384,  # softmax_d, rows to 128
        4 * 2 * 384 * 8 * 64,  # dq_accum
        2 * 2 * 300 * 8 * 64,  # dk_expanded
        2 * 2 * 300 * 8 * 64,  # dv_expanded
    ],
    ("flash_attention_3", (9, 0)): [
        4 * 2 * 8 * 384,  # softmax_d: tiles of 128 rows
        4 * 2 * 8 * 384,  # softmax_lse_log2
        4 * 2 * 8 * 384 * 64,  # dq_accum
        4 * 2 * 2 * 384 * 64,  # dk_accum: tiles of 128 keys
        4 * 2 * 2 * 384 * 64,  # dv_accum
        4 * 3 * 2 * 8,  # dq_semaphore
    ],
}
"""Worked from csrc/flash_attn/flash_api.cpp and hopper/flash_api.cpp of flash-attention 2.8.3."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", SIZES, ids=lambda case: case[0])
def test_the_backward_pass_takes_what_the_kernel_allocates(case: tuple[str, tuple[int, int]]) -> None:
    import torch

    release, capability = case
    name = "flash_attn" if release.endswith("2") else "flash_attn_interface"
    from tonnage.tracing.context import Tracing

    with Tracing(device=capability, backend="meta") as t:
        attend = __import__(name).flash_attn_func
        q, k, v = (torch.empty(2, 300, n, 64, dtype=torch.bfloat16, requires_grad=True) for n in (8, 2, 2))
        attend(q, k, v, causal=True).sum().backward()
    own = [b for b in t.trace().born if "flash_attn" in b.op and b.node]
    scratch = [b.size for b in t.trace().born if b.kind == SCRATCH and "flash_attn" in b.op]
    assert [b.size for b in own] + scratch == SIZES[case]
    with pytest.raises(ImportError):
        __import__(name)


@pytest.mark.filterwarnings("ignore")
def test_the_third_release_keeps_no_random_state() -> None:
    second, third = (
        sum(
            b.size
            for b in traced(CONFIGS["llama"], **FLASH | {"attention": a}).born
            if b.op.endswith("forward.default")
        )
        for a in ("flash_attention_2", "flash_attention_3")
    )
    layers = CONFIGS["llama"]["num_hidden_layers"]
    assert second - third == 2 * layers * 16


def test_packed_sequences_and_padded_heads() -> None:
    """By hand, from flash_attn_interface.py: what is saved of 3 sequences of 200 tokens in all, heads of width 60."""
    import torch

    from tonnage.tracing.context import Tracing

    with Tracing(backend="meta") as t:
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

        q, k, v = (torch.empty(200, n, 60, dtype=torch.bfloat16, requires_grad=True) for n in (4, 4, 4))
        ends = torch.empty(4, dtype=torch.int32)
        out = flash_attn_varlen_func(q, k, v, ends, ends, 90, 90, causal=True)
        assert out.shape == q.shape
        t.phase("after")
        out.sum().backward()
    padded = [b.size for b in t.trace().born if b.op == "aten.constant_pad_nd.default"]
    assert padded == [200 * 4 * 64 * 2] * 4
    sizes = [b.size for b in t.trace().born if "_flash_attn_varlen_forward" in b.op]
    assert sizes == [200 * 4 * 64 * 2, 4 * 4 * 200, 0, 16]
    scratch = [b.size for b in t.trace().born if b.kind == SCRATCH and "varlen" in b.op]
    assert scratch == [4 * (200 + 128 * 3) * 4 * 64]


def test_what_cannot_be_said() -> None:
    for config, said in (
        (CONFIGS["llama"], {"attention": "flash_attention_2", "precision": "fp32"}),
        (CONFIGS["llama"], {"attention": "flash_attention_3", "precision": "bf16"}),
        (CONFIGS["deepseek_v3"], {"attention": "flash_attention_2", "precision": "bf16"}),
    ):
        with pytest.raises(TonnageError):
            tn.train({"config": config}, **said)
    assert not OWN_FLASH & WITHOUT_FLASH
