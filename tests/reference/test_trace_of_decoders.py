"""Gemma 4 and Llama 4 under the tracer: closed form and trace, to the byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_trace_against_the_closed_form import compared

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
