"""The stream of allocations that a closed form makes: at every instant it holds what the closed form says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from played import play
from tonnage.errors import InputError
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.training import Step
from tonnage.families import model_from
from tonnage.memory.optimizers import optimizer

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "traces.json").read_text())
REFUSED = {"mamba", "mamba2", "jamba", "t5"}
RUNS = [r for r in RECORDED["runs"] if r["mode"] == "train" and r["family"] not in REFUSED]
FIRST = list({(r["family"], r["kernel"], bool(r["autocast"]), r["recompute"]): r for r in RUNS}.values())


@pytest.mark.parametrize("run", FIRST, ids=lambda r: r["id"])
def test_instants_are_those_of_the_closed_form(run: dict[str, Any]) -> None:
    recipe = Recipe(
        weights=run["weights"], autocast=run["autocast"], kernel=run["kernel"], optimizer=optimizer(run["optimizer"]),
        batch=run["batch"], tokens=run["seq"], accumulate=1, recompute=run["recompute"], keep_logits=False,
        keep_gradients=False, first_step=False, workspace=8_519_680,
    )  # fmt: skip
    step = Step(model_from(RECORDED["families"][run["family"]]), recipe)
    player, plain = play(step)
    played = {i.name: i.bytes for i in player.instants}
    stated = {m.name: m.level.allocated for m in step.moments()}
    assert {n: stated[n] - played[n] for n in stated if stated[n] != played[n]} == {}
    # The loop's variable holds the loss.
    assert plain.allocated == step.static().allocated + 512


def test_every_block_is_given_back() -> None:
    """Between two steps nothing is left but what is resident."""
    found = tn.train("llama-3.2-1b", replay=True, recompute="full", lora_rank=8)
    load, *step = found.ranks[0].instants
    assert load.bytes < found.ranks[0].static_bytes < min(i.bytes for i in step)


def test_replay_tells_what_was_assumed() -> None:
    found = tn.train("llama-3.2-1b", replay=True, gpu="a100-80gb")
    quick = tn.train("llama-3.2-1b", gpu="a100-80gb")
    trust = {c.name: c.trust for c in found.components}
    assert trust["fragmentation"] == "derived"
    assert {c.name: c.trust for c in quick.components}["fragmentation"] == "assumed"
    assert found.ranks[0].tier("requested") == quick.ranks[0].tier("requested")


def test_expandable_segments_waste_less() -> None:
    tiers = [
        tn.train("llama-3.2-1b", alloc_conf=conf, optimizer="adamw-foreach").ranks[0].tier("reserved")
        for conf in ("expandable_segments:True", "expandable_segments:False")
    ]
    assert tiers[0] < tiers[1]


def test_settings_are_torchs() -> None:
    with pytest.raises(InputError, match="foo"):
        tn.train("llama-3.2-1b", alloc_conf="foo:1")
