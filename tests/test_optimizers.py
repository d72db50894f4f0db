"""Optimizer states against the libraries' own, tensor by tensor; data/optimizers.json tells how they were read."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from played import play
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.training import Step
from tonnage.families import model_from
from tonnage.memory.optimizers import NAMES, highest, optimizer
from tonnage.tensors import Tensor, size

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "optimizers.json").read_text())
CONFIGS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "traces.json").read_text())["families"]
EXACT_STEPS = (
    "lion", "came", "adafactor", "adafactor-torch", "muon", "sophia", "lamb-8bit", "schedule-free-radam",
    "schedule-free-sgd", "stable-adamw",
)  # fmt: skip
"""Steps whose own tensors are stated to the byte."""


def parameter(name: str, shape: list[int]) -> Tensor:
    return Tensor(name, tuple(("X", n) for n in shape), "attention")


@pytest.mark.parametrize("run", RECORDED["runs"], ids=lambda r: f"{r['optimizer']}-{r['weights']}")
def test_states_are_those_of_the_library(run: dict[str, Any]) -> None:
    own = optimizer(run["optimizer"])
    for name, (shape, states) in run["states"].items():
        if run["optimizer"] == "muon" and len(shape) != 2:
            continue  # torch's Muon is given matrices only; AdamW takes the rest
        theirs = sorted((prod(s), form) for _, s, form in states if name or s)
        kept = own.resident(parameter(name, shape), run["weights"])
        ours = sorted((size(axes), form or run["weights"]) for _, axes, form in kept)
        # A scalar beside a parameter is in its gradient's format, whatever that is.
        assert [x for x in ours if x[0] > 1] == [x for x in theirs if x[0] > 1], name
        assert len(ours) == len(theirs), name


@pytest.mark.parametrize("run", RECORDED["hosted"], ids=lambda r: f"{r['optimizer']}-{r['weights']}")
def test_states_lie_where_the_library_puts_them(run: dict[str, Any]) -> None:
    own = optimizer(run["optimizer"])
    for name, (shape, places) in run["states"].items():
        t = parameter(name, shape)
        for place, kept in (("device", own.resident), ("host", own.outside)):
            theirs = sorted((n, prod(s), form) for n, s, form in places[place])
            ours = sorted((n, size(axes), form or run["weights"]) for n, axes, form in kept(t, run["weights"]))
            assert ours == theirs, (name, place)


@pytest.mark.parametrize(
    "run",
    [r for r in RECORDED["runs"] if r["optimizer"] in EXACT_STEPS],
    ids=lambda r: f"{r['optimizer']}-{r['weights']}",
)
def test_step_takes_what_the_library_takes(run: dict[str, Any]) -> None:
    width = 2 if run["weights"] == "bf16" else 4
    trained = [(parameter(n, shape), width, 1) for n, (shape, _) in run["states"].items()]
    ours, _ = highest(optimizer(run["optimizer"]).step(trained))
    assert run["step_peak"] == ours.requested


def test_the_trainer_keeps_tables_in_full() -> None:
    """``create_optimizer`` registers every embedding for 32 bits."""
    state = optimizer("adamw-8bit").state(Tensor("embed", (("V", 32_000), ("D", 64)), "embedding"))
    assert [(size(axes), form) for _, axes, form in state] == [(2_048_000, "fp32")] * 2


def test_paged_states_lie_on_the_host() -> None:
    """But those of small tensors, scales and maps: SmolLM2's 61 norms of 576, and every matrix's scales."""
    found = tn.train("smollm2-135m", optimizer="paged-adamw-8bit").ranks[0]
    plain = tn.train("smollm2-135m", optimizer="adamw-8bit").ranks[0]
    whole = plain.tier("requested") - found.tier("requested")
    assert found.tier("host") == whole
    matrices = 30 * (2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576)
    table = 49_152 * 576
    assert found.tier("host") == 2 * matrices + 2 * 4 * table
    kept = sum(c.bytes for c in found.components if c.name == "optimizer_state" and c.tier == "requested")
    assert kept == 2 * 4 * matrices // 256 + 2 * 4 * 61 * 576 + 2 * 1024


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_optimizer_is_answered(name: str) -> None:
    found = tn.train("smollm2-135m", optimizer=name)
    assert found.workload["optimizer"] == name
    assert found.ranks[0].tier("requested") > 0


@pytest.mark.parametrize("name", ["galore", "galore-8bit", "adamw-8bit", "lomo"])
@pytest.mark.parametrize("in_backward", [False, True])
def test_the_stream_of_allocations_is_the_closed_form_s(name: str, in_backward: bool) -> None:
    own = optimizer(name)
    recipe = Recipe(
        weights="bf16", autocast=None, kernel="flash", optimizer=own, batch=2, tokens=64, accumulate=1,
        recompute=False, keep_logits=False, keep_gradients=False, first_step=False, workspace=8_519_680,
        in_backward=in_backward or own.late,
    )  # fmt: skip
    s = Step(model_from(CONFIGS["gemma2"]), recipe)
    player, plain = play(s)
    played, stated = {i.name: i.bytes for i in player.instants}, {m.name: m.level.allocated for m in s.moments()}
    assert {n: stated[n] - played[n] for n in stated if stated[n] != played[n]} == {}
    assert plain.allocated == s.static().allocated + 512


def test_gradients_that_give_way_leave_room_for_the_next() -> None:
    """By hand: the fullest turn is the first of a layer's largest matrices, when four others are projections."""
    rows = [("q", 576, 576), ("k", 192, 576), ("v", 192, 576), ("o", 576, 576), ("gate", 1536, 576), ("up", 1536, 576)]
    trained = [(parameter(name, [m, n]), 2, 1) for name, m, n in rows]
    held, shrunk = highest(optimizer("galore-8bit").step(trained))
    before = 2 * sum(m * n - 128 * max(m, n) for _, m, n in rows[:4])
    assert shrunk.requested == before
    assert held.requested == 2 * (1536 * 576 + 2 * 128 * 1536)


def test_packed_weights_and_their_optimizer_by_hand() -> None:
    """Of SmolLM2: seven matrices a layer lie in bytes with 2 x 2 B for 256; tables and norms stay in 16 bit."""
    found = tn.train("smollm2-135m", optimizer="q-galore", optimizer_rank=64, suggest=False)
    shapes = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]
    packed, rest = 30 * sum(m * n for m, n in shapes), 49_152 * 576 + 61 * 576
    sizes = [c.bytes for c in found.components if c.name == "weights"]
    assert sizes == [packed, 2 * packed // 256, 2 * packed // 256, 2 * rest]
    low, narrow = 30 * 64 * sum(max(s) for s in shapes), 30 * 64 * sum(min(s) for s in shapes)
    moments = 2 * (low + 49_152 * 576 + 4 * 61 * 576)
    # A scale for 2,048; 64 x 576 is a whole number of them, and so are 64 x 1,536 and the table.
    scales = 2 * 4 * (low + 49_152 * 576) // 2048
    projectors = narrow + 2 * 2 * narrow // 256 + 2 * 30 * sum(min(s) for s in shapes)
    state = [c for c in found.components if c.name == "optimizer_state" and c.tier == "requested"]
    assert state[0].bytes == moments + scales + projectors + 2 * 1024
    assert found.fit is None
    assert any("bitsandbytes below 0.44" in c for c in found.caveats)


def test_a_step_that_packs_again_takes_eleven_copies() -> None:
    """By hand, of one matrix: what it was unpacked to, itself, a clone, five of the rounding and three of the sum."""
    own = optimizer("q-galore")
    t = Tensor("self_attn.q_proj.weight", (("X", 1024), ("X", 512)), "attention")
    held, shrunk = highest(own.step([(t, 2, 1)]))
    n = 1024 * 512
    assert shrunk.requested == 2 * (n - 128 * 1024)
    assert held.requested == 11 * 2 * n - n + 4 * 2 * n // 256


def test_the_script_leaves_what_its_hooks_do_not_reach() -> None:
    """Gradients of embedding, head and norms are there before the pass, and have no state."""
    config = {**CONFIGS["llama"], "tie_word_embeddings": False}
    found = tn.train({"config": config}, optimizer="q-galore", optimizer_in_backward=True, seq=64, suggest=False)
    left = found.ranks[0].components
    table = config["vocab_size"] * config["hidden_size"]
    norms = (2 * config["num_hidden_layers"] + 1) * config["hidden_size"]
    assert any(c.name == "gradients" and f"{2 * table + norms:,} parameters, never stepped" in c.why for c in left)
    assert any("never stepped" in c for c in found.caveats)


@pytest.mark.parametrize("name", ["galore", "galore-8bit", "apollo", "q-galore", "q-galore-proj"])
def test_a_lower_rank_keeps_less(name: str) -> None:
    said: dict[str, Any] = {"seq": 64, "optimizer": name, "suggest": False}
    wide, narrow = (tn.train("smollm2-135m", optimizer_rank=r, **said) for r in (128, 64))
    kept = [sum(c.bytes for c in r.components if c.name == "optimizer_state") for r in (wide, narrow)]
    assert kept[0] > kept[1]
    plain = tn.train("smollm2-135m", **said)
    assert plain.fullest.tier("requested") == wide.fullest.tier("requested")


def test_transformers_names_are_known() -> None:
    # OptimizerNames of training_args.py, as the Trainer's configs spell them
    from tonnage.launch.training._trainer import OPTIMIZERS
    from tonnage.memory.optimizers import NAMES, spelled

    for name, ours in OPTIMIZERS.items():
        # What is layerwise is an optimizer and a switch.
        if ours is not None and not ours.endswith(" layerwise"):
            assert spelled(name) == spelled(ours) == ours
            assert ours in NAMES
    assert spelled("Adam") == "adamw"


@pytest.mark.parametrize(("name", "ours"), [("paged_adamw_8bit", "paged-adamw-8bit"), ("adamw_torch", "adamw-foreach")])
def test_another_name_is_the_same_answer(name: str, ours: str) -> None:
    found = [tn.train("gpt2", seq=64, optimizer=n, suggest=False) for n in (name, ours)]
    assert found[0].fullest.tier("allocated") == found[1].fullest.tier("allocated")
    assert found[0].workload["optimizer"] == ours
