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
from tonnage.arch.float8 import Float8
from tonnage.arch.tape import Tape
from tonnage.arch.transformer_engine import TransformerEngine
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate import liger
from tonnage.estimate.pinned import pinned
from tonnage.estimate.precision import PRESETS
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.savers import implementations
from tonnage.estimate.training import Step
from tonnage.estimate.tuning import tuned
from tonnage.families import model_from
from tonnage.memory.optimizers import optimizer
from tonnage.memory.passes import blocks
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
        narrow=Float8(run["fp8"]) if run.get("fp8") else None,
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
    # A loss without logits takes less than the norm before it, which the closed form counts with it.
    played["loss"] = max(played["loss"], min(stated["loss"], played["last norm"]))
    assert {n: stated[n] - played[n] for n in stated if stated[n] != played[n]} == {}
    # The loop's variable holds the loss, and what its graph holds.
    assert plain.allocated == s.static().allocated + 512 + sum(blocks(kept.nbytes) for kept in s.passes.context)


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


def test_a_loss_in_parts_holds_what_its_code_keeps() -> None:
    """16,384 tokens of Llama-3.1-8B: chunks keep their log-softmax in fp32, tiles and kernels no logits at all."""
    logits = 4 * 4096 * 128_256
    at = {}
    for loss in ("full", "chunked", "chunked-16", "trl", "cut"):
        found = tn.train("llama-3.1-8b", seq=4096, batch=4, loss=loss, replay=False)
        at[loss] = next(i.bytes for i in found.ranks[0].instants if i.name == "loss backward")
    assert at["full"] - at["chunked"] > 4 * logits
    assert 0 <= at["chunked"] - at["chunked-16"] < logits
    assert at["chunked-16"] - at["trl"] > 4 * logits - 2 * 128_256 * 4096 * 4
    assert at["trl"] - at["cut"] > 0


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
        ("mixtral-8x7b", {"kernels": "liger==0.7.0"}, UnsupportedError, "one after the other"),
        ("llama-3.2-1b", {"kernels": "liger==0.3.1"}, UnsupportedError, r"0\.5\.10"),
        ("llama-3.2-1b", {"kernels": "apex"}, InputError, "apex"),
        ("llama-3.2-1b", {"kernels": "liger==1"}, InputError, "liger==1"),
        ("llama-3.2-1b", {"loss": "chunkd"}, InputError, "full, fused, liger, chunked"),
        ("llama-3.2-1b", {"loss": "chunked-0"}, InputError, "chunked-0"),
        ("bert-base-uncased", {"loss": "cut"}, InputError, "causal"),
        ("phi-2", {"loss": "cut"}, UnsupportedError, "head of phi"),
        ("gpt2", {"loss": "fused"}, UnsupportedError, "does not know gpt2"),
        ("llama-3.2-1b", {"recompute": "every-0"}, InputError, "every-0"),
        ("llama-3.2-1b", {"recompute": "first-x"}, InputError, "first-x"),
        ("llama-3.2-1b", {"optimizer_in_backward": True, "accumulate": 2}, InputError, "accumulate = 2"),
        ("llama-3.2-1b", {"optimizer": "galore-8bit", "retain": ["grads"]}, InputError, "gradients' places"),
        ("llama-3.2-1b", {"ema": True, "lora_rank": 8}, UnsupportedError, "beside adapters"),
        ("llama-3.2-1b", {"precision": "bf16-master", "lora_rank": 8}, UnsupportedError, "master weights of adapters"),
        ("llama-3.2-1b", {"recompute": "some"}, InputError, "some"),
        ("llama-3.2-1b", {"offload": "activations"}, UnsupportedError, "recompute = none"),
        ("llama-3.2-1b", {"offload": "weights"}, InputError, "offload"),
    ],
)
def test_what_cannot_be_is_named(model: str, said: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tn.train(model, **said)


def test_transformer_engine_keeps_weights_both_ways_and_a_history_for_each_module() -> None:
    """From its code: 1 B an element of every input, 2 B of every weight, 1,024 steps of five values a module."""
    said = {"seq": 512, "loss": "full", "first_step": True}
    plain = tn.train("llama-3.2-1b", precision="bf16", **said)
    engine = tn.train("llama-3.2-1b", precision="fp8", fp8_recipe="te-delayed", **said)
    buffers = [sum(c.bytes for c in r.components if c.name == "other:buffers") for r in (plain, engine)]
    modules = 16 * 7 + 1
    assert buffers[1] - buffers[0] == modules * (1024 * 5 + 5) * 4 + 33_555_456
    width, inner, words, heads = 2048, 8192, 128_256, 512
    inputs = 16 * (5 * width + width + inner) + width
    weights = 16 * (2 * width * width + 2 * width * heads + 3 * width * inner) + words * width
    # What q, k and v, or gate and up share is no longer kept: each has a copy of its own. Attention keeps its output.
    shared = 16 * (2 * width + inner) + width
    levels = []
    for narrow in (None, TransformerEngine()):
        recipe = Recipe(
            weights="bf16", autocast=None, kernel="flash", optimizer=optimizer("sgd"), batch=1, tokens=512,
            accumulate=1, recompute=False, keep_logits=False, keep_gradients=False, first_step=False, workspace=0,
            narrow=narrow,
        )  # fmt: skip
        p = Step(tn.load("llama-3.2-1b"), recipe).passes
        levels.append(sum(a.kept().requested for a in (*p.layers, p.tail)))
    scales = 2 * 4 * modules
    assert levels[1] - levels[0] == 512 * inputs + 2 * weights + scales - 2 * 512 * shared


@pytest.mark.parametrize(
    ("blocks", "copies", "scales"),
    [
        # Of 512 tokens, 2,048 wide, and a matrix of 8,192 x 2,048: rows x columns / 32, in a byte each way.
        ("mxfp8", 512 * 2048 + 2 * 8192 * 2048, 512 // 32 * 2048 + 2 * 8192 * 2048 // 32),
        # A scale in fp32 for every 128 of the input, and for every 128 x 128 of the matrix, each way.
        ("block", 512 * 2048 + 2 * 8192 * 2048, 4 * (512 // 128 * 2048 + 2 * 8192 // 128 * 2048 // 128)),
    ],
)
def test_products_scaled_by_block_keep_scales_of_their_own_each_way(blocks: Any, copies: int, scales: int) -> None:
    """From Transformer Engine's code: the input turned, and the matrix both ways."""
    tape = Tape(grad=True, weights="bf16")
    x = tape.leaf("input", (("B", 1), ("T", 512), ("D", 2048)), "bf16")
    weight = tape.parameter("up.weight", (("F", 8192), ("D", 2048)))
    product = TransformerEngine(blocks=blocks).forward(x, weight, None, (("D", 2048),), (("F", 8192),))
    assert sum(s.nbytes for s in tape.born if s.owners) == x.storage.nbytes + product.storage.nbytes + copies + scales


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"fp8_recipe": "te-mxfp8", "gpu": "h100-sxm-80gb"}, "needs compute capability 10.0 to 11.x"),
        ({"fp8_recipe": "te-block", "gpu": "a100-80gb"}, "needs compute capability 9.0 or higher"),
        ({"fp8_recipe": "te-mxfp8", "seq": 520}, "multiples of 32 tokens"),
        ({"fp8_recipe": "te-mxfp4"}, "te-mxfp8"),
    ],
)
def test_recipes_by_block_are_refused_where_they_do_not_run(said: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as raised:
        tn.train("llama-3.2-1b", precision="fp8", **{"seq": 512} | said)
    assert words in f"{raised.value} {raised.value.hint}"


@pytest.mark.parametrize("run", RECORDED["offloaded"], ids=lambda r: r["id"])
def test_layers_whose_inputs_are_on_the_host_peak_where_the_trace_does(run: dict[str, Any]) -> None:
    """To the byte in the forward pass; behind the layers at most one layer's input, and what was just brought back."""
    config = RECORDED["families"][run["family"]] | {"num_hidden_layers": run["layers"]}
    config |= {"layer_types": config["layer_types"][:1] * run["layers"]} if "layer_types" in config else {}
    weights, autocast = PRESETS[run["precision"]]
    recipe = Recipe(
        weights=weights, autocast=autocast, kernel="flash", optimizer=optimizer("adamw-fused"), batch=run["batch"],
        tokens=run["seq"], accumulate=1, recompute=True, keep_logits=False, keep_gradients=False, first_step=False,
        workspace=0, offloads=True,
    )  # fmt: skip
    s = Step(model_from(config), recipe)
    levels = {m.name: m.highest for m in s.moments()}
    width = s.passes.layers[0].output.nbytes
    for i, (ahead, back) in enumerate(run["levels"]):
        assert levels[f"forward layer {i}"] == ahead
        assert -width // 8 <= levels[f"backward layer {i}"] - back <= 0
    ids = 8 * run["batch"] * run["seq"]
    forward, backward, step = run["peaks"]
    assert -ids <= max(n for name, n in levels.items() if name in ("loss", "last norm")) - forward <= 0
    most = max(n for name, n in levels.items() if "backward" in name)
    assert -ids <= most - backward <= width
    assert levels["optimizer step"] == step
    assert 0 <= run["host"] - sum(pinned(s)) <= 4 * width


def test_offloaded_activations_stand_on_the_host() -> None:
    plain, moved = (
        tn.train("llama-3.1-8b", seq=16384, recompute="full", loss="fused", offload=how, replay=False)
        for how in (None, "activations")
    )
    host = [c for c in moved.components if c.tier == "host"]
    # The fused loss saves the gradient of its input.
    assert sum(c.bytes for c in host) == 33 * 16384 * 4096 * 2
    saved = {i.name: i.bytes for i in plain.ranks[0].instants}
    less = {i.name: saved[i.name] - i.bytes for i in moved.ranks[0].instants}
    assert (less["loss"], less["backward layer 31"]) == (32 * 16384 * 4096 * 2, 31 * 16384 * 4096 * 2)
    assert less["backward layer 0"] == less["optimizer step"] == 0


def test_a_first_step_takes_the_second_workspace_where_its_backward_pass_multiplies() -> None:
    """A loss is the peak of a step that trains little: the thread that goes back has not multiplied yet."""
    said = {"lora_rank": 4, "seq": 128, "replay": True}
    first, later = (tn.train("smollm2-135m", first_step=on, **said) for on in (True, None))
    kept = [sum(c.bytes for c in r.components if c.name == "workspace") for r in (first, later)]
    assert first.peak.name == later.peak.name == "loss backward"
    assert 2 * kept[0] == kept[1]
    assert all(c.bytes >= 0 for c in first.components)


def test_an_embedding_whose_output_collects_a_gradient_stays_beside_its_copy() -> None:
    """Autograd's node that collects holds the tensor itself, whatever hooks have packed: torch 2.13.0, measured."""
    said: dict[str, Any] = {"seq": 1024, "recompute": "full", "offload": "activations", "replay": False}
    stream = 1024 * 2048 * 2
    found = {}
    for targets in (None, ["q_proj"]):
        own = {"lora_rank": 8, "lora_targets": targets} if targets else {}
        plain = tn.train("llama-3.2-1b", **said | {"offload": None}, **own)
        moved = tn.train("llama-3.2-1b", **said, **own)
        saved = {i.name: i.bytes for i in plain.ranks[0].instants}
        found[bool(targets)] = saved["loss"] - next(i.bytes for i in moved.ranks[0].instants if i.name == "loss")
        assert next(i.bytes for i in moved.ranks[0].instants if i.name == "optimizer step") <= saved["optimizer step"]
    assert found[False] - found[True] == stream
