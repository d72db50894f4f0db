"""Megatron-Core's loss and its selective recomputation: equal to its own code, refused where there is no such part.

The recorded peaks are those of Megatron-Core's code around transformers' models on tensors without data:
reference/megatron_runs.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.training import Step

HERE = Path(__file__).parent / "data"
RECORDED: list[dict[str, Any]] = json.loads((HERE / "megatron.json").read_text())["runs"]
FAMILIES: dict[str, Any] = json.loads((HERE / "traces.json").read_text())["families"]
KINDS = ("forward", "backward", "optimizer")
LLAMA: dict[str, Any] = {"seq": 1024, "batch": 2, "replay": False}


def peaks(config: dict[str, Any], said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The most that tensors take in each phase. [byte]"""
    found = dict.fromkeys(KINDS, 0)
    moments = Step.moments

    def watched(self: Step) -> Any:
        for m in moments(self):
            kind = "optimizer" if m.name == "optimizer step" else "backward" if "backward" in m.name else "forward"
            found[kind] = max(found[kind], m.highest)
            yield m

    monkeypatch.setattr(Step, "moments", watched)
    tn.train({"config": config}, suggest=False, **said)
    return [found[kind] for kind in KINDS]


@pytest.mark.parametrize("run", RECORDED, ids=lambda r: f"{r['family']} {r['said']}")
def test_the_step_is_what_megatron_does(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert peaks(FAMILIES[run["family"]], run["said"], monkeypatch) == run["peaks"]


def saved(**said: Any) -> int:
    """What a layer of Llama 3.2 1B leaves saved. [byte]"""
    result = tn.train("llama-3.2-1b", suggest=False, **LLAMA, **said)
    line = next(c for c in result.fullest.components if "saved by a layer" in c.why)
    return line.bytes // 16


def test_norms_whose_output_is_let_go_of_keep_their_input_alone() -> None:
    # What two norms of 2,048 x 2,048 elements keep no more: their input in fp32 (4 B), the root of its variance (4 B a
    # row), what they normalised and the next matrix's input (2 B each). The second one's own input (2 B) is kept now,
    # which nothing else asks for; the first one's is the layer's.
    elements = 2 * 1024 * 2048
    assert saved() - saved(recompute="layernorm") == 2 * (8 * elements + 4 * 2048) - 2 * elements


def test_the_softmax_is_kept_in_fp32() -> None:
    result = tn.train("llama-3.2-1b", suggest=False, loss="vocab-parallel", **LLAMA)
    terms = {t[0]: t[2] for c in result.fullest.components for t in c.terms}
    assert terms["softmax"] == 2 * 1024 * 128256 * 4
    assert terms["labels"] == 2 * terms["loss mask"] == 2 * 1024 * 8


@pytest.mark.parametrize(
    ("model", "said", "message"),
    [
        ("llama-3.2-1b", {"recompute": "moe_act"}, "no layer of llama has such a part"),
        ("llama-3.2-1b", {"recompute": "moe"}, "no layer of llama has such a part"),
        ("llama-3.2-1b", {"recompute": "mla_up_proj"}, "no layer of llama has such a part"),
        ("mixtral-8x7b", {"recompute": "shared_experts"}, "no layer of mixtral has such a part"),
        ("mixtral-8x7b", {"recompute": "moe,moe_act"}, "moe and moe_act, which is a part of it"),
        ("llama-3.2-1b", {"recompute": "layernorm,nonsense"}, "unknown module 'nonsense'"),
    ],
)
def test_parts_that_are_not_there_are_named(model: str, said: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tn.train(model, suggest=False, **said)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"recompute": "gdn_norm_out"}, "recompute = gdn_norm_out: of Megatron's modules"),
        ({"recompute": "layernorm", "precision": "bf16-mixed"}, "not modelled with precision = bf16-mixed"),
        ({"recompute": "layernorm", "lora_rank": 8}, "not modelled with lora_rank = 8"),
        ({"recompute": "layernorm", "kernels": "liger"}, "not modelled with kernels = liger"),
        ({"recompute": "layernorm", "stack": "torchtitan"}, "torchtitan has"),
        ({"loss": "vocab-parallel-fused"}, "not modelled"),
        ({"loss": "vocab-parallel", "objective": "dpo"}, "loss"),
    ],
)
def test_what_is_not_modelled_is_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, UnsupportedError), match=message):
        tn.train("llama-3.2-1b", suggest=False, **said)
