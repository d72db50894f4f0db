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
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.training import Step
from tonnage.families import model_from
from tonnage.memory.optimizers import optimizer
from tonnage.memory.recompute import Recompute

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


def test_layers_that_share_keys_and_values_keep_one_copy() -> None:
    """Gemma 4 E2B over 256 tokens: its sliding layers' heads fit flash attention, so that those that reuse keep none.

    The layer that makes them keeps keys and values of one head of 256, in bf16; the full layers' heads are repeated.
    """
    found = step(dict(load("gemma-4-e2b").config)["text_config"], 256).passes
    made, using = found.layers[13], found.layers[15]
    assert made.loan is not None
    assert using.loan is not None
    assert [s.nbytes for s in made.saved if s.label == "rotated" and ("K", 1) in s.axes] == [256 * 256 * 2]
    assert found.kernels == {"flash", "efficient"}
    assert not [s for s in using.saved if ("K", 1) in s.axes]
    # Sums of gradients go down from layer to layer: one of keys, one of values.
    assert [s.nbytes for s in using.loan.due] == [s.nbytes for s in using.loan.back] == [256 * 256 * 2] * 2
    assert [s.nbytes for s in made.loan.due] == [256 * 256 * 2] * 2
    assert made.loan.back == []


def test_checkpoints_hold_what_made_keys_and_values_again() -> None:
    """The dictionary that all checkpoints hold names the second run's keys and values, with their graph."""
    config = CONFIGS["gemma4_text (shared)"]
    model = model_from(config)
    recipe = Recipe(
        weights="bf16", autocast=None, kernel="flash", optimizer=optimizer("adamw-fused"), batch=2, tokens=64,
        accumulate=1, recompute=Recompute(), keep_logits=False, keep_gradients=False, first_step=False, workspace=0,
    )  # fmt: skip
    loans = [a.loan for a in Step(model, recipe).passes.layers if a.loan is not None]
    stays = [sum(s.nbytes for s in loan.stays) for loan in loans]
    assert [n > 0 for n in stays] == [True, True, False, False, False]
    # Of the sliding layer, in fp32: what its norm and the keys' cast and normalised, what the values' cast, two numbers
    # of each row, and both weights; in bf16 what both matrices were given.
    D, K, H, rows = 384, 2, 96, 128
    norms = rows * 4 * (2 * D + 2 + 3 * K * H + 4 * K)
    weights = 4 * (D + H)
    pair = rows * 2 * (2 * K * H)
    assert stays[0] == norms + weights + rows * 2 * D + pair


def test_the_clamped_matrix_of_gemma_3n_is_refused_where_it_is_packed() -> None:
    with pytest.raises(InputError, match="fails where they are packed"):
        tn.train({"config": CONFIGS["gemma3n_text"]}, quant="nf4", lora_rank=8, lora_targets=["q_proj"], seq=64)


@pytest.mark.parametrize("said", [{"recompute": "reentrant"}, {"recompute": "attention"}, {"compile": True}])
def test_ways_that_are_not_told_of_shared_keys_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="not modelled"):
        tn.train({"config": CONFIGS["gemma4_text (shared)"]}, seq=64, suggest=False, **said)


@pytest.mark.parametrize("name", ["gemma-4-e2b", "gemma-4-e4b", "gemma-3n-e2b", "gemma-3n-e4b"])
def test_the_models_themselves_train(name: str) -> None:
    whole = tn.train(name, seq=2048, precision="bf16", suggest=False).peak.bytes
    again = tn.train(name, seq=2048, precision="bf16", recompute="full", suggest=False).peak.bytes
    adapted = tn.train(name, seq=2048, precision="bf16", lora_rank=8, lora_targets=["all-linear"], suggest=False)
    assert 2 * load(name).parameters.total < adapted.peak.bytes < again < whole


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
