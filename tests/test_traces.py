"""Closed form against trace: what the real code of transformers makes and drops, to the byte.

The recorded runs are in data/traces.json, with how they were made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage.errors import UnsupportedError
from tonnage.estimate.paired import PairedStep
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.serving import Run, Session
from tonnage.estimate.training import Step
from tonnage.families import model_from
from tonnage.memory.cache import states
from tonnage.memory.optimizers import optimizer

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "traces.json").read_text())
TRAINED = [r for r in RECORDED["runs"] if r["mode"] == "train"]
SERVED = [r for r in RECORDED["runs"] if r["mode"] == "decode" and r["family"] != "bert"]

CACHE_NOT_MODELLED = {"mamba", "mamba2", "jamba"}
"""State-space mixers: a pass that fills a cache is refused."""

SAVED_APART = CACHE_NOT_MODELLED
"""Their convolution's activated output is saved as views, which the recorded sums of a layer leave out; what the layers
reach, forward and backward, and the whole step hold it."""

PAIRS = {"t5"}
"""Two stacks, whose pass is on one tape: a step is compared, and no layer alone."""

BUILT_OTHERWISE = {"deepseek_v3": 64}
"""Bytes by which bf16 runs of a family exceed the trace, which built its model from a config: ``from_pretrained`` keeps
the correction bias of the router in fp32 (2 layers x 16 experts x 2 B)."""


def model(run: dict[str, Any]) -> Any:
    """The run's model, whose code was told to cache nothing."""
    found = model_from(RECORDED["families"][run["family"]], head=run.get("head"))
    return found.but(stacks=tuple(stack.but(caches=False) for stack in found.stacks))


@pytest.mark.parametrize("run", TRAINED, ids=lambda r: r["id"])
def test_parameters(run: dict[str, Any]) -> None:
    assert model(run).parameters.total == run["parameters"]


@pytest.mark.parametrize("run", [r for r in TRAINED if r["family"] not in PAIRS], ids=lambda r: r["id"])
def test_layer_saves_and_reaches_what_the_trace_does(run: dict[str, Any]) -> None:
    passes = Step(model(run), recipe(run)).passes
    after = [*passes.layers[1:], passes.tail]
    for index, (account, above) in enumerate(zip(passes.layers, after, strict=True)):
        saved, ahead, back = run["layers"][index]
        if run["recompute"]:
            assert account.forward.highest == ahead
            continue
        # The trace counts a layer's output with the layer when anyone keeps it.
        kept = account.kept().requested + (account.output.nbytes if above.keeps_input or account.keeps_output else 0)
        kept = saved if run["family"] in SAVED_APART else kept
        assert (kept, account.forward.highest, account.backward.highest) == (saved, ahead, back), index


def recipe(run: dict[str, Any]) -> Recipe:
    return Recipe(
        weights=run["weights"], autocast=run["autocast"], kernel=run["kernel"], optimizer=optimizer(run["optimizer"]),
        batch=run["batch"], tokens=run["seq"], accumulate=1, recompute=run["recompute"], keep_logits=False,
        keep_gradients=False, first_step=False, workspace=0,
    )  # fmt: skip


def step(run: dict[str, Any]) -> list[int]:
    """Peaks of the forward pass, the backward pass and the optimizer step."""
    peaks = [0, 0, 0]
    kind = PairedStep if run["family"] in PAIRS else Step
    for m in kind(model(run), recipe(run)).moments():
        part = 2 if m.name == "optimizer step" else 1 if "backward" in m.name else 0
        peaks[part] = max(peaks[part], m.highest)
    return peaks


STEPS = [r for r in TRAINED if not (r["family"] in PAIRS and r["recompute"])]
"""Runs but those of T5 with checkpointed layers, which hand each other a bias: refused."""


@pytest.mark.parametrize("run", STEPS, ids=lambda r: r["id"])
def test_whole_step_peaks_where_the_trace_does(run: dict[str, Any]) -> None:
    assert [peak - over(run) for peak in step(run)] == run["peaks"]


def over(run: dict[str, Any]) -> int:
    """Bytes that are known to come on top of the trace."""
    return BUILT_OTHERWISE.get(run["family"], 0) if run["weights"] == "bf16" else 0


@pytest.mark.parametrize("run", [r for r in SERVED if r["family"] not in CACHE_NOT_MODELLED], ids=lambda r: r["id"])
def test_prefill_and_decoding_peak_where_the_trace_does(run: dict[str, Any]) -> None:
    tokens, batch = run["seq"], run["batch"]
    session = Session(
        dtype=run["weights"], kernel=run["kernel"], sequences=batch, context=tokens + 2, prompt=tokens, logits="all",
        latent=True, workspace=0,
    )  # fmt: skip
    m = model(run)
    levels = {x.name: x.highest for x in Run(m, session).moments()}
    prefill = [levels[f"prefill: layer {i}"] for i in range(len(run["layers"]))]
    decode = max(n for name, n in levels.items() if name.startswith("decode"))
    # The traced loop keeps the prompt's ids; generate() keeps those of the tokens made since as well.
    decode -= batch * 8
    # The length of a window, 8 B a layer, reaches the device when its layer first sees tokens; here all do at once.
    windowed = 8 * sum(w is not None for layer in m.decoder.layers for _, w in states(layer, 1, 1))
    for mine, traced in zip([*prefill, decode], [*run["layers"], *run["peaks"]], strict=True):
        assert 0 <= mine - over(run) - traced <= windowed


@pytest.mark.parametrize("run", [r for r in RECORDED["runs"] if r["mode"] == "prefill"], ids=lambda r: r["id"])
def test_an_encoder_peaks_where_the_trace_does(run: dict[str, Any]) -> None:
    session = Session(
        dtype=run["weights"], kernel=run["kernel"], sequences=run["batch"], context=run["seq"], prompt=run["seq"],
        logits="all", latent=True, workspace=0,
    )  # fmt: skip
    levels = {x.name: x.highest for x in Run(model(run), session).moments()}
    layers = [levels[f"prefill: layer {i}"] for i in range(len(run["layers"]))]
    assert [*layers, max(levels.values())] == [*run["layers"], *run["peaks"]]


VISION = [r for r in TRAINED if "vision_config" in RECORDED["families"][r["family"]]]


@pytest.mark.parametrize("run", VISION[:3], ids=lambda r: r["id"])
def test_what_no_gradient_reaches_has_no_state(run: dict[str, Any]) -> None:
    step = Step(model(run), recipe(run))
    assert {t.role for t, _ in step.idle} == {"vision"}
    assert sum(t.numel * n for t, n in (*step.trained, *step.idle)) == run["parameters"]


@pytest.mark.parametrize("family", sorted(CACHE_NOT_MODELLED))
def test_what_is_not_modelled_is_refused(family: str) -> None:
    with pytest.raises(UnsupportedError, match="outside of a training step on the next token"):
        tn.train({"config": RECORDED["families"][family]}, seq=64, objective="dpo")
