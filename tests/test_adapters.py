"""Adapters: what peft's code makes and drops beside frozen matrices, packed ones among them, to the byte.

The recorded runs are in data/adapters.json, with how they were made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage import quant
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.training import Step
from tonnage.estimate.tuning import tuned
from tonnage.families import model_from
from tonnage.memory.optimizers import optimizer
from tonnage.workload.training import Train

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "adapters.json").read_text())
RUNS = RECORDED["runs"]

OWN_MAPS = 1024
"""The traced loader gave every matrix a map of its own for the scales of its scales; bitsandbytes shares one."""


def step(run: dict[str, Any]) -> Step:
    model = model_from(RECORDED["families"][run["family"]])
    packed = run["packed"]
    recipe = quant.recipe(quant.called("nf4-dq" if run["double"] else "nf4"), checkpoint=False) if packed else None
    w = Train(
        lora_rank=run["rank"], lora_targets=tuple(run["targets"]), lora_dropout=run["dropout"],
        kbit_prepared=run["kbit"],
    )  # fmt: skip
    found = tuned(model, w, recipe, run["weights"], packed or run["weights"])
    settled = Recipe(
        weights=found.weights, autocast=run["autocast"], kernel=run["kernel"], optimizer=optimizer(run["optimizer"]),
        batch=run["batch"], tokens=run["seq"], accumulate=1, recompute=run["recompute"],
        keep_logits=run["keep_logits"], keep_gradients=False, first_step=False, workspace=0, tuning=found.tuning,
        adapters=found.trained, shares=found.shares, input_grads=run["recompute"],
    )  # fmt: skip
    return Step(model, settled)


@pytest.mark.parametrize("run", [r for r in RUNS if r["layers"] and not r["recompute"]], ids=lambda r: r["id"])
def test_layer_saves_and_reaches_what_the_trace_does(run: dict[str, Any]) -> None:
    passes = step(run).passes
    after = [*passes.layers[1:], passes.tail]
    for index, (account, above) in enumerate(zip(passes.layers, after, strict=True)):
        kept = account.kept().requested + (account.output.nbytes if above.keeps_input or account.keeps_output else 0)
        assert [kept, account.forward.highest, account.backward.highest] == run["layers"][index], index


@pytest.mark.parametrize("run", RUNS, ids=lambda r: r["id"])
def test_whole_step_peaks_where_the_trace_does(run: dict[str, Any]) -> None:
    s = step(run)
    peaks = [0, 0, 0]
    for m in s.moments():
        part = 2 if m.name == "optimizer step" else 1 if "backward" in m.name else 0
        peaks[part] = max(peaks[part], m.highest)
    packed = len(quant.packed_modules(s.model, quant.recipe(quant.called("nf4"), checkpoint=False)))
    layers = len(s.model.decoder.layers)
    over = OWN_MAPS * packed * layers if run["double"] else 0
    assert [p + over for p in peaks] == run["peaks"]


def test_published_trainable_counts() -> None:
    """peft's own examples: Llama-3.1-8B, rank 16."""
    all_linear = tn.train("llama-3.1-8b", lora_rank=16, lora_targets="all-linear", recompute="full")
    assert all_linear.model["trainable_parameters"] == 41_943_040
    attention = tn.train("llama-3.1-8b", lora_rank=16, lora_targets="q_proj,v_proj", recompute="full")
    assert attention.model["trainable_parameters"] == 6_815_744


def test_peft_chooses_targets_by_the_type_of_the_model() -> None:
    found = tn.train("llama-3.1-8b", lora_rank=16, recompute="full")
    assert found.workload["lora_targets"] == ["q_proj", "v_proj"]


def test_frozen_weights_keep_the_format_of_the_checkpoint() -> None:
    """Mixed precision makes what is trained in fp32, and no more."""
    found = tn.train("llama-3.1-8b", lora_rank=16, precision="bf16-mixed", recompute="full")
    assert found.workload["weights_dtype"] == "bf16"
    assert found.workload["compute_dtype"] == "bf16"


def test_lines_add_up_with_packed_weights() -> None:
    found = tn.train("llama-3.1-8b", lora_rank=16, quant="nf4", kbit_prepared=True, recompute="full", gpu="rtx-4090")
    rank = found.ranks[0]
    assert rank.tier("requested") == sum(c.bytes for c in rank.components if c.tier == "requested")
    assert found.fits


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ({"lora_rank": 8, "lora_targets": "qproj"}, InputError, "called 'qproj'"),
        ({"lora_targets": "q_proj"}, InputError, "no lora_rank"),
        ({"quant": "nf4"}, UnsupportedError, "not trained themselves"),
        ({"lora_rank": 8, "quant": "awq-int4"}, UnsupportedError, "not modelled"),
        ({"quant": "int8"}, UnsupportedError, "not trained themselves"),
        ({"adapter": "dora", "lora_rank": 8, "quant": "int8"}, UnsupportedError, "not modelled"),
        ({"lora_rank": 8, "lora_dropout": 1.0}, InputError, "from 0 to below 1"),
    ],
)
def test_what_cannot_be_is_named(said: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tn.train("llama-3.1-8b", **said)


@pytest.mark.parametrize(
    ("config", "trained"),
    [
        # Counted with peft 0.21.2 over transformers 5.23.0's classes: r = 8, target_modules = "all-linear".
        ({"model_type": "opt", "hidden_size": 64, "ffn_dim": 128, "num_attention_heads": 4, "num_hidden_layers": 2,
          "word_embed_proj_dim": 32, "vocab_size": 100, "max_position_embeddings": 64,
          "do_layer_norm_before": False}, 15_872),
        ({"model_type": "bert", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
          "num_hidden_layers": 2, "vocab_size": 100, "max_position_embeddings": 64,
          "architectures": ["BertForMaskedLM"]}, 15_360),
    ],
    ids=["opt", "bert"],
)  # fmt: skip
def test_all_linear_means_what_stands_before_the_head(config: dict[str, Any], trained: int) -> None:
    found = tn.train({"config": config}, lora_rank=8, lora_targets=["all-linear"], seq=16, suggest=False)
    assert found.model["trainable_parameters"] == trained
