"""What spares memory, run by torch itself: modules of a layer that are computed again, to the byte."""

from __future__ import annotations

from typing import Any, Final

import pytest
import test_trace_against_the_closed_form as closed
from tracing_cases import CONFIGS

MODULES: Final = ("mlp", "attention", "attention,mlp", "core_attn")


def compared(family: str, said: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **traced: Any) -> None:
    """Tensors to the byte; what the allocator does not split off depends on the order of frees."""
    if traced:
        import tracing_cases

        run = tracing_cases.traced
        monkeypatch.setattr(tracing_cases, "traced", lambda config, **kw: run(config, **(kw | traced)))
    closed.compared(CONFIGS[family], closed.SHAPE | said, monkeypatch, rounded=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seq", [64, 300])
@pytest.mark.parametrize("modules", MODULES)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_modules_that_are_computed_again(family: str, modules: str, seq: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if modules != "core_attn":
        compared(family, {"recompute": modules, "seq": seq}, monkeypatch)
        return
    from torch.utils.checkpoint import checkpoint
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if family == "gemma2":
        pytest.skip("its eager attention is no function that can be exchanged")
    kernel = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def again(module: Any, *args: Any, **kwargs: Any) -> Any:
        named = {key: kwargs[key] for key in ("scaling", "dropout", "is_causal", "sliding_window") if key in kwargs}
        return checkpoint(lambda *given: kernel(module, *given, **named), *args, use_reentrant=False)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", again)
    compared(family, {"recompute": modules, "seq": seq}, monkeypatch, recompute="none")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("modules", ["moe", "moe,attention"])
def test_experts_that_are_computed_again(modules: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared("qwen3_moe", {"recompute": modules, "seq": 200}, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("modules", ["mlp", "attention"])
def test_modules_under_autocast(modules: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared("llama", {"recompute": modules, "precision": "bf16-mixed", "seq": 128}, monkeypatch)
