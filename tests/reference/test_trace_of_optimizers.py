"""Optimizers: closed form against the libraries' own classes stepping under the tracer, to the byte."""

from __future__ import annotations

from typing import Any

import pytest
import test_trace_against_the_closed_form
from test_trace_against_the_closed_form import SHAPE, closed_form, compared
from tracing_cases import CONFIGS

import tonnage as tn
from tonnage.errors import InputError, UnsupportedError
from tonnage.memory.optimizers import PLACES
from tonnage.tracing.levels import levels
from tonnage.tracing.stream import STATE

LIBRARIES = {
    "adamw-amsgrad": "torch", "rmsprop": "torch", "adagrad": "torch", "nadam": "torch", "adafactor-torch": "torch",
    "muon": "torch", "adafactor": "transformers", **dict.fromkeys(PLACES["eight_bit"][:-1], "bitsandbytes"),
    "lion": "lion_pytorch", "came": "came_pytorch", "schedule-free": "schedulefree", "galore": "galore_torch",
    "galore-8bit": "galore_torch", "apollo": "apollo_torch", "schedule-free-sgd": "schedulefree",
    "lamb": "pytorch_optimizer",
    "shampoo": "pytorch_optimizer", "grokadamw": "grokadamw", "adam-mini": "adam_mini",
}  # fmt: skip
STATES_ONLY = {"adamw-8bit-ao": "torchao", "adamw-4bit-ao": "torchao", "adamw-fp8-ao": "torchao"}
"""Steps that are compiled on a device, and told as their plain code."""

LAYERWISE = {
    "adamw-fused": "torch", "adamw-8bit": "bitsandbytes", "galore": "galore_torch", "galore-8bit": "galore_torch",
    "apollo": "apollo_torch",
}  # fmt: skip
OTHER_ORDER = {
    # Norms come last in transformers' layers, and a turn's tensors meet those of the parameter before. [byte]
    ("llama", "adafactor-torch", "bf16"): -288_000,
    ("llama", "adafactor-torch", "bf16-mixed"): -576_000,
    ("gemma2", "adafactor-torch", "bf16"): -435_840,
    ("gemma2", "adafactor-torch", "bf16-mixed"): -871_680,
    # The same; and the norms of the matrix before, two numbers.
    ("llama", "shampoo", "bf16"): -4,
    ("llama", "shampoo", "bf16-mixed"): -1_176_584,
    ("gemma2", "shampoo", "bf16-mixed"): -2_423_304,
    # Most is allocated where each norm is a block, and tensors take most where ratios are made of them.
    ("llama", "lamb", "bf16"): -92,
    ("llama", "lamb", "bf16-mixed"): -154,
    ("gemma2", "lamb", "bf16"): -140,
    ("gemma2", "lamb", "bf16-mixed"): -234,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["bf16", "bf16-mixed"])
@pytest.mark.parametrize("optimizer", LIBRARIES)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_an_optimizer_takes_what_its_code_does(
    family: str, optimizer: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(LIBRARIES[optimizer])
    over = OTHER_ORDER.get((family, optimizer, precision), 0)
    if optimizer == "galore-8bit":
        # Where a matrix is stepped, a clone that will be its weight lies beside it.
        for name in ("lines_of", "lines_of_trace"):
            told = getattr(test_trace_against_the_closed_form, name)
            monkeypatch.setattr(test_trace_against_the_closed_form, name, lambda found, told=told: joined(told(found)))
    # Norms come last in transformers' layers: a loop's remainders that are not split off lie otherwise.
    compared(
        CONFIGS[family], SHAPE | {"optimizer": optimizer, "precision": precision}, monkeypatch, (0, 0, over),
        exact=not over, rounded=False,
    )  # fmt: skip


def joined(lines: dict[str, int]) -> dict[str, int]:
    swapped = ("weights", "gradients", "optimizer_state")
    return {k: n for k, n in lines.items() if k not in swapped} | {"swapped": sum(lines.get(k, 0) for k in swapped)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-mixed"])
@pytest.mark.parametrize("optimizer", LAYERWISE)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_an_optimizer_for_every_parameter_steps_as_its_gradient_is_there(
    family: str, optimizer: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks as the Trainer registers them (transformers 5.23.0 trainer_optimizer.py, ``_setup_low_rank_optimizer``)."""
    pytest.importorskip(LAYERWISE[optimizer])
    from tracing_cases import traced

    said = SHAPE | {"optimizer": optimizer, "precision": precision, "optimizer_in_backward": True}
    (ahead, back, _), _ = closed_form(CONFIGS[family], said, monkeypatch)
    found = levels(traced(CONFIGS[family], **said))
    phases = {name: range(start - 1, stop) for name, start, stop in found.traced.phases()}
    got = [max(found.requested[i] for i in phases[f"step2.{kind}"]) for kind in ("forward", "backward")]
    # APOLLO's limiter is a tensor where a gradient has grown, which one without data has not.
    assert [ahead, back] == got or (optimizer == "apollo" and [ahead, back] == [got[0], got[1] + 4])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-mixed"])
@pytest.mark.parametrize(("optimizer", "scaled"), [("lomo", 0), ("adalomo", 4)])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_an_optimizer_that_steps_in_hooks(
    family: str, optimizer: str, scaled: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the loss that AdaLOMO scales by a number. [byte]"""
    pytest.importorskip("lomo_optim")
    from tracing_cases import traced

    said = SHAPE | {"optimizer": optimizer, "precision": precision}
    (ahead, back, _), _ = closed_form(CONFIGS[family], said, monkeypatch)
    found = levels(traced(CONFIGS[family], **said))
    phases = {name: range(start - 1, stop) for name, start, stop in found.traced.phases()}
    got = [max(found.requested[i] for i in phases[f"step2.{kind}"]) for kind in ("forward", "backward")]
    assert [ahead, back + scaled] == got


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("optimizer", STATES_ONLY)
def test_a_compiled_optimizer_keeps_what_its_code_does(optimizer: str) -> None:
    pytest.importorskip(STATES_ONLY[optimizer])
    from tracing_cases import traced

    said = SHAPE | {"optimizer": optimizer}
    found = traced(CONFIGS["llama"], **said)
    kept = [found.born[n].size for n in alive(found.order) if found.born[n].kind == STATE]
    wanted = tn.train({"config": CONFIGS["llama"]}, suggest=False, **said)
    assert sum(kept) == sum(c.bytes for c in wanted.components if c.name == "optimizer_state")
    assert "plain code" in found.told["caveat"]


def alive(order: list[int]) -> set[int]:
    out: set[int] = set()
    for n in order:
        if n >= 0:
            out.add(n)
        else:
            out.discard(~n)
    return out


@pytest.mark.filterwarnings("ignore")
def test_paged_states_are_told_on_the_host() -> None:
    pytest.importorskip("bitsandbytes")
    said: dict[str, Any] = SHAPE | {"optimizer": "paged-adamw-8bit", "task": "train"}
    traced, stated = tn.trace({"config": CONFIGS["llama"]}, **said), tn.train({"config": CONFIGS["llama"]}, **said)
    assert traced.fullest.tier("host") == stated.fullest.tier("host") > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quant", ["nf4", "nf4-dq"])
def test_adapters_beside_packed_weights_step_in_eight_bits(quant: str) -> None:
    pytest.importorskip("bitsandbytes")
    said: dict[str, Any] = {"quant": quant, "lora_rank": 8, "lora_targets": ["q_proj"], "optimizer": "paged-adamw-8bit"}
    said |= SHAPE | {"task": "train"}
    traced, stated = tn.trace({"config": CONFIGS["llama"]}, **said), tn.train({"config": CONFIGS["llama"]}, **said)
    assert traced.fullest.tier("requested") == stated.fullest.tier("requested")


@pytest.mark.filterwarnings("ignore")
def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from tracing_cases import traced

    monkeypatch.setitem(sys.modules, "lion_pytorch", None)
    with pytest.raises(UnsupportedError, match="lion_pytorch, which cannot be imported") as e:
        traced(CONFIGS["llama"], **SHAPE, optimizer="lion")
    assert e.value.hint == "pip install lion-pytorch"


@pytest.mark.filterwarnings("ignore")
def test_a_model_without_linear_modules_has_nothing_to_project() -> None:
    pytest.importorskip("galore_torch")
    from tracing_cases import traced

    with pytest.raises(InputError, match="no linear modules"):
        traced(CONFIGS["gpt2"], **SHAPE, optimizer="galore")
