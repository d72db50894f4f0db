"""Decoders with parts of their own, Gemma 4's and Llama 4's: closed form against traces, to the byte.

The recorded runs are in data/decoders.json, with how they were made (``scripts/trace_mixers.py``). The models are small
ones of the real classes, with every kind of layer; those with towers are given text alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from peaks import peaks, run_name
from tonnage.api import load
from tonnage.errors import InputError
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.training import Step
from tonnage.families import model_from
from tonnage.memory.optimizers import optimizer

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "decoders.json").read_text())
CONFIGS: dict[str, Any] = RECORDED["configs"]
RUNS: list[dict[str, Any]] = RECORDED["runs"]


@pytest.mark.parametrize("run", RUNS, ids=run_name)
def test_a_step_takes_what_the_modelled_code_does(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found, result = peaks(CONFIGS[run["config"]], run["said"], monkeypatch)
    assert found == run["peaks"]
    assert result.ranks[0].tier("allocated") == run["allocated"]
    assert result.model["trainable_parameters"] == run["trainable"]


def step(config: dict[str, Any], tokens: int) -> Step:
    """One sequence in bf16."""
    recipe = Recipe(
        weights="bf16", autocast=None, kernel="flash", optimizer=optimizer("adamw-fused"), batch=1, tokens=tokens,
        accumulate=1, recompute=None, keep_logits=False, keep_gradients=False, first_step=False, workspace=0,
    )  # fmt: skip
    return Step(model_from(config), recipe)


def test_every_expert_of_llama_4_keeps_every_token() -> None:
    """Scout's 16 experts over 2,048 tokens: the copies, what they are weighed to, gates and ups, and two products."""
    text: dict[str, Any] = dict(load("llama-4-scout-17b-16e").config)["text_config"]
    config = {**text, "num_hidden_layers": 1, "moe_layers": [0], "no_rope_layers": [1], "layer_types": None}
    (layer,) = step(config, 2048).passes.layers
    rows, D, F = 16 * 2048, 5120, 8192
    assert sum(s.nbytes for s in layer.saved if s.axes[0] == ("E", 16)) == rows * (2 * (D + D + 2 * F + F + F) + 2)


def test_heads_of_512_are_repeated_for_the_memory_efficient_kernel() -> None:
    """A full layer of Gemma 4 31B over 512 tokens keeps 32 heads of keys and of values, though it has 4 of its own."""
    text: dict[str, Any] = dict(load("gemma-4-31b").config)["text_config"]
    found = step({**text, "num_hidden_layers": 6, "layer_types": text["layer_types"][:6]}, 512).passes
    repeated = [s.nbytes for s in found.layers[5].saved if s.label == "repeated heads"]
    assert repeated == [512 * 32 * 512 * 2] * 2
    assert not [s for s in found.layers[0].saved if s.label == "repeated heads"]
    assert found.kernels == {"flash", "efficient"}


def test_a_tower_that_sees_no_picture_has_weights_and_no_state() -> None:
    found = step(CONFIGS["gemma4"], 64)
    assert {t.role for t, _ in found.idle} == {"vision"}
    assert sum(t.numel * n for t, n in (*found.trained, *found.idle)) == model_from(CONFIGS["gemma4"]).parameters.total


@pytest.mark.parametrize(
    ("config", "targets", "words"),
    [
        ("gemma4", ["q_proj"], "peft adapts no module around a matrix"),
        ("llama4", ["all-linear"], "fails in its adapter"),
        ("llama4_text", ["router"], "fails in its adapter"),
        ("gemma4_text", [], "no target modules are known for gemma4_text"),
    ],
)
def test_targets_that_peft_refuses_are_refused(config: str, targets: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        tn.train({"config": CONFIGS[config]}, precision="bf16", seq=64, lora_rank=8, lora_targets=targets)
