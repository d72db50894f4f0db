"""Packages with kernels for mixers under the tracer, the kernels not run: closed form and trace, to the byte."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import test_trace_against_the_closed_form as closed
from test_trace_against_the_closed_form import SETTINGS, SHAPE, compared
from tracing_cases import CONFIGS, traced

from tonnage.errors import UnsupportedError
from tonnage.tracing.mixers import PACKAGES

TABLES: list[dict[str, Any]] = [
    json.loads((Path(__file__).parent.parent / "data" / f"{name}.json").read_text()) for name in ("mixers", "hybrids")
]
RECORDED_CONFIGS = TABLES[0]["configs"] | TABLES[1]["configs"]
OF = ("mamba", "mamba2", "jamba")
NAMED = {"mamba": ["in_proj", "x_proj"], "mamba2": ["in_proj"], "jamba": ["in_proj", "q_proj"]}
SAID = [name for name in SETTINGS if name not in ("eager", "math") and "lora" not in name]
SOME = [run for table in TABLES for run in table["runs"][::5]]
GROUPED_IN_FP32 = {("jamba", "mixed")}
"""Settings for which this release of torch has no meta kernel."""

FEW = 40
"""Tokens of so few that chunks have the shape of weights: a trace takes them for gradients."""
CATEGORISED_OTHERWISE = {("mamba2", "mixed")}
"""At its peak the head's gradient is there in 16 bit as well, which a trace knows for a gradient by its shape."""


def named(run: dict[str, Any]) -> str:
    return f"{run['config']} {sorted(run['said'].items())}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", [*SAID, "lora"])
@pytest.mark.parametrize("family", OF)
def test_operations_of_torch_are_what_the_code_does(family: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if (family, setting) in GROUPED_IN_FP32:
        pytest.skip("torch 2.13 has no meta kernel for grouped products under autocast")
    said = SETTINGS.get(setting, {})
    if setting == "lora":
        pytest.importorskip("peft")
        said = {"lora_rank": 8, "lora_targets": NAMED[family]}
    if (family, setting) in CATEGORISED_OTHERWISE:
        monkeypatch.setattr(closed, "lines_of_trace", lambda found: None)
        monkeypatch.setattr(closed, "lines_of", lambda result: None)
    compared(CONFIGS[family], SHAPE | said, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("run", SOME, ids=named)
def test_recorded_runs_take_what_the_code_does(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if "lora_rank" in run["said"]:
        pytest.importorskip("peft")
    if run["said"]["seq"] == FEW:
        monkeypatch.setattr(closed, "lines_of_trace", lambda found: None)
        monkeypatch.setattr(closed, "lines_of", lambda result: None)
    for package in PACKAGES[run["said"]["kernels"]] if "kernels" in run["said"] else ():
        # Some look for a device as they are imported.
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    # The table's own test tells where blocks keep over another number of bytes.
    compared(RECORDED_CONFIGS[run["config"]], run["said"], monkeypatch, rounded=False)


@pytest.mark.filterwarnings("ignore")
def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "mamba-ssm", ("no_such_package",))
    with pytest.raises(UnsupportedError, match="no_such_package is not installed"):
        traced(CONFIGS["mamba"], **SHAPE, kernels="mamba-ssm")
