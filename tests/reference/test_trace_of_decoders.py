"""Gemma 4 and Llama 4 under the tracer: closed form and trace, to the byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_trace_against_the_closed_form import compared

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
