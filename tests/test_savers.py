"""Fused kernels, losses and recomputation: what Liger's and torch's own code make and drop, to the byte.

The recorded runs are in data/savers.json, with how they were made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from played import play
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate import liger
from tonnage.estimate.savers import implementations
from tonnage.estimate.training import Recipe, Step
from tonnage.estimate.tuning import tuned
from tonnage.families import model_from
from tonnage.memory.optimizers import optimizer
from tonnage.memory.recompute import settled
from tonnage.stacks.transformers import STACK
from tonnage.workload.training import Train

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "savers.json").read_text())
RUNS = RECORDED["runs"]

ROTARY = ("olmo2-085", "olmo3-085", "qwen3-080")
"""Runs whose lowest layer has its peak behind the rotation, when both tables of angles are gone already."""


def step(run: dict[str, Any], workspace: int = 0) -> Step:
    model = model_from(RECORDED["families"][run["family"]])
    lora = run["lora"] or {}
    w = Train(
        kernels=None if run["liger"] is None else f"liger=={run['liger']}", loss=run["loss"], lora_rank=lora.get("r"),
        lora_targets=tuple(lora.get("targets", ())), lora_dropout=lora.get("dropout"),
    )  # fmt: skip
    built = implementations(model, w, STACK, None)
    found = tuned(model, w, None, run["weights"], run["weights"]) if lora else None
    recipe = Recipe(
        weights=run["weights"], autocast=run["autocast"], kernel=run["kernel"], optimizer=optimizer(run["optimizer"]),
        batch=run["batch"], tokens=run["seq"], accumulate=1, recompute=run["recompute"] != "none", keep_logits=False,
        keep_gradients=False, first_step=False, workspace=workspace, fused=built.fused, loss=built.loss,
        plan=settled(run["recompute"]), tuning=found.tuning if found else None,
        adapters=found.trained if found else (), input_grads=bool(lora) and run["recompute"] != "none",
        in_backward=run["in_backward"], master=run["master"],
    )  # fmt: skip
    return Step(model, recipe)


@pytest.mark.parametrize("run", RUNS, ids=lambda r: r["id"])
def test_every_layer_and_the_whole_step_peak_where_the_trace_does(run: dict[str, Any]) -> None:
    s = step(run)
    levels = {m.name: m.highest for m in s.moments()}
    assert s.model.parameters.total + (s.grown.requested // 4 if run["lora"] else 0) == run["parameters"]
    peaks = [
        max(n for name, n in levels.items() if "backward" not in name and name != "optimizer step"),
        max(n for name, n in levels.items() if "backward" in name),
        levels.get("optimizer step"),
    ]
    assert peaks == run["peaks"]
    tables = sum(v.nbytes for v in s.passes.shared if v.dtype != "int64") if run["id"] in ROTARY else 0
    for i, (ahead, back) in enumerate(run["levels"]):
        assert levels[f"forward layer {i}"] == ahead
        over = levels[f"backward layer {i}"] - back
        assert over == 0 or (i == 0 and over == tables)


@pytest.mark.parametrize("run", RUNS, ids=lambda r: r["id"])
def test_the_stream_of_allocations_is_the_closed_form_s(run: dict[str, Any]) -> None:
    s = step(run, workspace=8_519_680)
    player, plain = play(s)
    played = {i.name: i.bytes for i in player.instants}
    stated = {m.name: m.level.allocated for m in s.moments()}
    assert {n: stated[n] - played[n] for n in stated if stated[n] != played[n]} == {}
    # The loop's variable holds the loss.
    assert plain.allocated == s.static().allocated + 512


def test_optimizer_in_backward_holds_one_gradient_at_a_time() -> None:
    plain, stepped = (
        tn.train("llama-3.2-1b", optimizer_in_backward=on, recompute="full", seq=64) for on in (None, True)
    )
    gradients = sum(c.bytes for c in stepped.components if c.name == "gradients")
    assert gradients <= 2 * 128_256 * 2048 * 2
    assert [i.name for i in plain.ranks[0].instants][:-1] == [i.name for i in stepped.ranks[0].instants]


def test_master_weights_are_eighteen_bytes_a_parameter() -> None:
    """Megatron's table: 2 B weights, 4 B main gradients, 4 B master weights, 8 B of Adam's states."""
    found = tn.train("llama-3.1-8b", precision="bf16-master", seq=64)
    states = {"weights", "gradients", "master_weights", "optimizer_state"}
    at = [c for c in found.components if c.name in states]
    P = 8_030_261_248
    assert 18 * P <= sum(c.bytes for c in at) < 18 * P + 2 * 128_256 * 4096 * 2 + 4096
    assert (found.workload["grad_dtype"], found.workload["state_dtype"], found.workload["master"]) == (
        "fp32",
        "fp32",
        True,
    )


def test_moving_averages_are_one_more_model() -> None:
    """As torch.optim.swa_utils.AveragedModel copies it: weights, buffers and a counter."""
    plain, averaged = (tn.train("llama-3.2-1b", ema=on).ranks[0] for on in (None, True))
    buffers = sum(c.bytes for c in plain.components if c.name == "other:buffers")
    assert averaged.tier("requested") - plain.tier("requested") == 1_235_814_400 * 2 + buffers + 8


def test_savers_save_in_order() -> None:
    """Nothing, one layer of two, what torchtitan's list leaves, everything: each keeps less than the one before."""
    kept = [
        tn.train("llama-3.2-1b", recompute=how, seq=4096, loss="fused").ranks[0].peak.bytes
        for how in ("none", "every-2", "full")
    ]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == 3


def test_first_n_of_all_layers_is_full() -> None:
    full, first, every = (
        [i.bytes for i in tn.train("llama-3.2-1b", recompute=how).ranks[0].instants]
        for how in ("full", "first-16", "every-1")
    )
    assert full == first == every


def test_fused_loss_holds_no_table_of_logits() -> None:
    full, fused = (
        tn.train("llama-3.1-8b", seq=8192, batch=4, loss=loss, recompute="full") for loss in ("full", "fused")
    )
    table = 4 * 8192 * 128_256 * 4
    assert full.ranks[0].peak.bytes - fused.ranks[0].peak.bytes > 2 * table


def test_the_result_says_which_implementation_is_meant() -> None:
    found = tn.train("llama-3.1-8b", kernels="liger")
    assert (found.workload["kernels"], found.workload["loss"]) == ("liger", "fused")
    assert any("0.8.5" in c for c in found.caveats)
    assert any("fused linear cross entropy" in c for c in found.caveats)
    granite = tn.train({"config": RECORDED["families"]["granite"]}, kernels="liger", seq=128)
    assert granite.workload["loss"] == "liger"


def test_what_liger_does_not_know_runs_as_it_is() -> None:
    plain, asked = tn.train("gpt2"), tn.train("gpt2", kernels="liger")
    assert plain.ranks[0].peak.bytes == asked.ranks[0].peak.bytes
    assert any("does not know gpt2" in c for c in asked.caveats)


def test_a_model_that_a_release_does_not_know_yet_runs_as_it_is() -> None:
    assert liger.replaced("smollm3", (5, 10), 132) is None
    assert liger.replaced("smollm3", (6, 1), 132) is not None


@pytest.mark.parametrize(
    ("model", "said", "error", "words"),
    [
        ("mixtral-8x7b", {"kernels": "liger"}, UnsupportedError, "mixtral"),
        ("llama-3.2-1b", {"kernels": "liger==0.3.1"}, UnsupportedError, r"0\.5\.10"),
        ("llama-3.2-1b", {"kernels": "apex"}, InputError, "apex"),
        ("llama-3.2-1b", {"kernels": "liger==1"}, InputError, "liger==1"),
        ("llama-3.2-1b", {"loss": "chunked"}, UnsupportedError, "full, fused, liger"),
        ("gpt2", {"loss": "fused"}, UnsupportedError, "does not know gpt2"),
        ("llama-3.2-1b", {"recompute": "every-0"}, InputError, "every-0"),
        ("llama-3.2-1b", {"recompute": "first-x"}, InputError, "first-x"),
        ("llama-3.2-1b", {"optimizer_in_backward": True, "accumulate": 2}, InputError, "accumulate = 2"),
        ("llama-3.2-1b", {"ema": True, "lora_rank": 8}, UnsupportedError, "beside adapters"),
        ("llama-3.2-1b", {"precision": "bf16-master", "lora_rank": 8}, UnsupportedError, "master weights of adapters"),
        ("llama-3.2-1b", {"recompute": "some"}, InputError, "some"),
    ],
)
def test_what_cannot_be_is_named(model: str, said: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tn.train(model, **said)
