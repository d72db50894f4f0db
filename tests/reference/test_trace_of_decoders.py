"""Gemma 4 and Llama 4 under the tracer: closed form and trace, to the byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_trace_against_the_closed_form import KINDS, closed_form, compared

import tonnage as tn
from tonnage.tracing import ask, request
from tonnage.tracing.levels import levels
from tonnage.workload import workload
from tonnage.workload.serving import Serve

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent.parent / "data" / "decoders.json").read_text())


def named(run: dict[str, Any]) -> str:
    return f"{run['config']} {sorted(run['said'].items())}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("run", RECORDED["runs"][::4], ids=named)
def test_recorded_runs_take_what_the_code_does(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if "lora_rank" in run["said"]:
        pytest.importorskip("peft")
    compared(RECORDED["configs"][run["config"]], run["said"], monkeypatch, rounded=False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("config", "targets"), [("gemma4", ["q_proj"]), ("llama4", ["all-linear"])], ids=["around", "router"]
)
def test_targets_that_are_refused_fail_in_peft(config: str, targets: list[str]) -> None:
    pytest.importorskip("peft")
    from tracing_cases import traced

    with pytest.raises(Exception, match=r"not supported|no attribute"):
        traced(RECORDED["configs"][config], precision="bf16", batch=1, seq=32, lora_rank=8, lora_targets=targets)


TOWERS: dict[str, Any] = {
    "model_type": "gemma3n",
    "architectures": ["Gemma3nForConditionalGeneration"],
    "dtype": "float32",
    "tie_word_embeddings": True,
    "text_config": {k: v for k, v in RECORDED["configs"]["gemma3n_text"].items() if k != "dtype"},
    "vision_config": {"hidden_size": 2048, "vocab_size": 128, "vocab_offset": 2800},
    "audio_config": {
        "hidden_size": 96, "vocab_size": 100, "vocab_offset": 2928, "input_feat_size": 32,
        "conf_num_attention_heads": 4, "conf_num_hidden_layers": 1, "sscp_conv_channel_size": [16, 8],
    },
}  # fmt: skip
"""Gemma 3n with towers, which every token goes by; that of pictures is built by timm, and has one size."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "said",
    [
        {},
        {"recompute": "full"},
        {"precision": "bf16-mixed"},
        {"lora_rank": 8, "lora_targets": ["all-linear"], "recompute": "full"},
    ],
    ids=str,
)
def test_gemma_3n_with_towers_takes_what_its_code_does(said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm", exc_type=Exception)
    pytest.importorskip("PIL")
    from tracing_cases import traced

    said = {"precision": "bf16", "batch": 2, "seq": 64} | said
    wanted, result = closed_form(TOWERS, said, monkeypatch)
    found = levels(traced(TOWERS, **said))
    phases = {name: range(start - 1, stop) for name, start, stop in found.traced.phases()}
    # Lines are not compared: a trace does not tell cached keys from other activations.
    assert wanted == [max(found.requested[i] for i in phases[f"step2.{kind}"]) for kind in KINDS]
    assert found.traced.told["trainable"] == result.model["trainable_parameters"]


WINDOW = 8
"""Bytes a layer with a window or in chunks: its length reaches the device when it first sees tokens; here all do."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("asked", [{"context": 64, "prompt": 20, "concurrency": 2}, {"context": 150, "prompt": 140}])
@pytest.mark.parametrize("config", ["gemma4", "gemma4 (rows)", "llama4"])
def test_generating_takes_what_the_code_does(config: str, asked: dict[str, Any]) -> None:
    from tonnage.tracing import run

    told = RECORDED["configs"][config]
    wanted = tn.serve({"config": told}, suggest=False, **asked).fullest
    head = ask.own_head(told, tn.load({"config": told}))
    found = levels(run.model_trace(request.serving(told, workload(Serve, asked), None, name="", head=head).job))
    assert 0 <= wanted.tier("requested") - found.requested[found.peak] <= WINDOW
