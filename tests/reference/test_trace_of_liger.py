"""Liger's own code under the tracer, its kernels not run: closed form and trace, to the byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import test_trace_against_the_closed_form as closed
from test_trace_against_the_closed_form import compared
from tracing_cases import CONFIGS

from tonnage.errors import InputError, UnsupportedError
from tonnage.tracing import request
from tonnage.workload import workload
from tonnage.workload.training import Train

DATA = Path(__file__).parent.parent / "data"
FAMILIES: dict[str, Any] = {
    **CONFIGS,
    **json.loads((DATA / "mixers.json").read_text())["configs"],
    **json.loads((DATA / "savers.json").read_text())["families"],
}
SHAPE: dict[str, Any] = {"precision": "bf16", "batch": 2, "seq": 150, "kernels": "liger"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in (
        "exaone4", "gemma", "gemma2", "gemma3_text", "glm4", "granite", "mistral", "olmo2", "olmo3", "phi3", "smollm3",
    )},
    "llama": ("llama (3)", {"seq": 300}),
    "qwen2": ("qwen2 (2)", {}),
    "qwen3": ("qwen3 (2)", {}),
    "autocast": ("llama (3)", {"precision": "bf16-mixed"}),
    "recomputed": ("llama (3)", {"recompute": "full"}),
    "gemma2, eager": ("gemma2", {"attention": "eager"}),
    "the loss alone": ("llama (3)", {"kernels": None, "loss": "fused"}),
    "without the loss": ("llama (3)", {"loss": "full"}),
    "over the logits": ("llama (3)", {"loss": "liger"}),
    "a tied head": ("llama (4)", {}),
    "adapters": ("llama (3)", {"lora_rank": 8, "lora_targets": ["q_proj", "v_proj"]}),
    **{name: (name, {}) for name in (
        "deepseek_v2", "deepseek_v3", "gpt_oss", "hunyuan_v1_dense", "ministral", "mixtral", "qwen3_5", "qwen3_moe",
        "qwen3_next",
    )},
    **{
        f"{name}, {how}": (name, said)
        for name in ("deepseek_v3", "mixtral")
        for how, said in {
            "autocast": {"precision": "bf16-mixed"},
            "recomputed": {"recompute": "full"},
            "its own loss": {"loss": "full"},
        }.items()
    },
    "gpt_oss, the loss alone": ("gpt_oss", {"kernels": None, "loss": "fused"}),
    "norms alone": ("llama (3)", {"kernels": "liger:rms_norm"}),
    "rotary embedding and gated blocks": ("llama (3)", {"kernels": "liger:rope+swiglu", "loss": "full"}),
    "all but experts": ("qwen3_moe", {"kernels": "liger:rope+rms_norm"}),
    "experts alone": ("mixtral", {"kernels": "liger:swiglu"}),
    "gated blocks of GELU alone": ("gemma2", {"kernels": "liger:swiglu"}),
    "deepseek_v3, fp32": ("deepseek_v3", {"precision": "fp32"}),
    "qwen3_5, adapters on a part": ("qwen3_5", {"lora_rank": 8, "lora_targets": ["q_proj", "v_proj"]}),
    "mixtral, frozen experts": ("mixtral", {"lora_rank": 8, "lora_targets": ["q_proj", "v_proj"]}),
    "mixtral, frozen experts, recomputed": (
        "mixtral", {"lora_rank": 8, "lora_targets": ["q_proj", "v_proj"], "recompute": "full"},
    ),
}  # fmt: skip


OTHERWISE = ("mixtral, frozen experts", "mixtral, frozen experts, recomputed")
"""Norms write their gradients over the loss's, which the trace still counts as the loss's."""


def together(lines: Callable[[Any], dict[str, int]]) -> Callable[[Any], dict[str, int]]:
    """A chunk's logits are made by the loss."""

    def summed(found: Any) -> dict[str, int]:
        out = lines(found)
        return out | {"loss": out.get("loss", 0) + out.pop("logits", 0)}

    return summed


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_fused_kernels_take_what_their_code_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("liger_kernel")
    pytest.importorskip("triton")
    family, said = CASES[name]
    monkeypatch.setattr(closed, "lines_of", together(closed.lines_of))
    monkeypatch.setattr(closed, "lines_of_trace", together(closed.lines_of_trace))
    if name in OTHERWISE:
        monkeypatch.setattr(closed, "lines_of_trace", lambda found: None)
        monkeypatch.setattr(closed, "lines_of", lambda result: None)
    compared(FAMILIES[family], {key: value for key, value in (SHAPE | said).items() if value is not None}, monkeypatch)


@pytest.mark.filterwarnings("ignore")
def test_the_model_s_own_code_is_put_back() -> None:
    pytest.importorskip("liger_kernel")
    pytest.importorskip("triton")
    from torch.nn import functional
    from tracing_cases import traced
    from transformers.models.llama import modeling_llama

    before = modeling_llama.apply_rotary_pos_emb, functional.cross_entropy
    traced(FAMILIES["llama (3)"], **SHAPE, loss="liger")
    assert (modeling_llama.apply_rotary_pos_emb, functional.cross_entropy) == before


@pytest.mark.filterwarnings("ignore")
def test_another_release_than_the_installed_one_is_refused() -> None:
    from tracing_cases import traced

    there = find_spec("liger_kernel") and find_spec("triton")
    asked = "0.8.4" if there and version("liger-kernel") != "0.8.4" else "0.8.3"
    with pytest.raises(UnsupportedError, match="is installed, not" if there else "not both installed"):
        traced(FAMILIES["llama (3)"], **SHAPE | {"kernels": f"liger=={asked}"})


@pytest.mark.parametrize("said", [{"kernels": "unsloth"}, {"kernels": "liger==x"}])
def test_kernels_that_are_none_are_named(said: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="unknown kernels"):
        request.training(FAMILIES["llama (3)"], workload(Train, said), None, name="", head="causal")
