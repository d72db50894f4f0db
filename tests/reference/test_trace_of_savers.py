"""What spares memory, run by torch itself, and the evaluation behind a step: to the byte."""

from __future__ import annotations

from typing import Any, Final

import pytest
import test_trace_against_the_closed_form as closed
from tracing_cases import CONFIGS

SAVED_BUFFERS: Final = {"bert": 8192, "gemma2": 4}
"""Bytes at most of what an operation saves that is a buffer of the model, and left out: positions, a number."""
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
@pytest.mark.parametrize("seq", [64, 300])
@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3", "qwen2_moe"])
def test_shared_experts_that_are_computed_again(family: str, seq: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compared(family, {"recompute": "shared_experts", "seq": seq}, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("modules", ["mlp", "attention"])
def test_modules_under_autocast(modules: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared("llama", {"recompute": modules, "precision": "bf16-mixed", "seq": 128}, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("said", [{}, {"precision": "bf16-mixed"}, {"attention": "eager"}, {"seq": 300}], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "bert"])
def test_an_evaluation_step(family: str, said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The Trainer's ``prediction_step`` behind the optimizer's step."""
    evaluation(family, said, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("said", [{}, {"precision": "fp32"}, {"seq": 300}, {"stack_version": "5.14"}], ids=str)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_an_evaluation_step_with_liger(family: str, said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """From 5.15 on the Trainer asks Liger's forward pass for no logits; before, it makes all of them."""
    pytest.importorskip("liger_kernel")
    evaluation(family, said | {"kernels": "liger"}, monkeypatch, skips="stack_version" not in said)


def evaluation(family: str, said: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *, skips: bool = False) -> None:
    """Closed form and trace."""
    import torch
    from tracing_cases import most_by_part, traced

    from tonnage.tracing import loops
    from tonnage.tracing.levels import levels
    from tonnage.tracing.stream import INPUT

    said = closed.SHAPE | said
    found = most_by_part(monkeypatch)
    closed.tn.train({"config": CONFIGS[family]}, suggest=False, eval_batch=5, **said)
    train = loops.train

    def evaluated(model: Any, job: Any, r: Any, device: str, made: Any) -> None:
        train(model, job, r, device, made)
        model.eval()
        given = torch.empty((5, job["seq"]), dtype=torch.int64, device=device)
        r.there(given, INPUT, "")
        r.enter("evaluation")
        with torch.no_grad(), loops.autocast(job):
            model(input_ids=given, labels=given, **({"skip_logits": True} if skips else {}))
        r.enter("end of all")

    monkeypatch.setattr(loops, "train", evaluated)
    seen = levels(traced(CONFIGS[family], layers="all", **said))
    phases = {name: range(start - 1, stop) for name, start, stop in seen.traced.phases()}
    # The traced loop has let go of the step's loss.
    assert found["evaluation step"] - max(seen.requested[i] for i in phases["evaluation"]) in (2, 4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "said",
    [
        {"seq": 64},
        {"batch": 1, "seq": 300},
        {"precision": "bf16-mixed", "seq": 300},
        {"recompute": "full", "seq": 300},
        {"retain": ["outputs"], "seq": 300},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_logits_of_the_last_tokens(family: str, said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    compared(family, {"logits_to_keep": 40} | said, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("said", [{}, {"seq": 300}, {"attention": "eager"}, {"precision": "bf16-mixed"}], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bert", "phi"])
def test_all_that_is_saved_goes_to_the_host(family: str, said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    from torch.autograd.graph import saved_tensors_hooks

    from tonnage.tracing import loops, run

    under, moved = loops.autocast, list[int]()

    def pack(t: Any) -> Any:
        """As ``save_on_cpu``'s, with a note of the size."""
        moved.append(t.numel() * t.element_size())
        return t.device, t.cpu()

    def unpack(packed: Any) -> Any:
        return packed[1].to(packed[0])

    @contextlib.contextmanager
    def hosted(job: Any) -> Any:
        moved.clear()
        with under(job), saved_tensors_hooks(pack, unpack):
            yield

    monkeypatch.setattr(loops, "autocast", hosted)
    recorded = run._recorded
    monkeypatch.setattr(run, "_recorded", lambda model, job, tell: recorded(model, {**job, "backend": "cuda"}, tell))
    given = {"offload": "save-on-cpu", "replay": None} | said
    compared(family, given, monkeypatch, offload=None, layers="all")
    answer = closed.tn.train({"config": CONFIGS[family]}, suggest=False, **(closed.SHAPE | given))
    host = sum(c.bytes for c in answer.components if c.tier == "host")
    buffers = sum(1 << (n - 1).bit_length() for n in moved) - host
    assert 0 <= buffers <= SAVED_BUFFERS.get(family, 0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("said", [{"seq": 300}, {"recompute": "full"}, {"precision": "bf16-mixed"}], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe"])
def test_attention_of_cudnn(family: str, said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if family == "qwen3_moe" and "precision" in said:
        pytest.skip("torch 2.13 has no meta kernel for grouped products under autocast")
    compared(family, {"attention": "cudnn"} | said, monkeypatch)
