"""What a plain answer imports and creates: its budget without a clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import tonnage

ANSWER = ("train", "llama-3.1-8b", "--gpu", "h100-sxm-80gb")

BANNED = frozenset(
    [
        "asyncio",
        "dataclasses",
        "difflib",
        "email",
        "http",
        "httpx",
        "httpx2",
        "huggingface_hub",
        "importlib.metadata",
        "importlib.resources",
        "logging",
        "numpy",
        "pathlib",
        "pydantic",
        "rich",
        "ssl",
        "tomllib",
        "torch",
        "transformers",
        "urllib.request",
    ]
)

ALLOWED = frozenset(
    [
        "tonnage",
        "tonnage.api",
        "tonnage.arch",
        "tonnage.arch.activation",
        "tonnage.arch.attention",
        "tonnage.arch.eager",
        "tonnage.arch.ends",
        "tonnage.arch.feedforward",
        "tonnage.arch.flash_attention",
        "tonnage.arch.forward",
        "tonnage.arch.inplace",
        "tonnage.arch.kernels",
        "tonnage.arch.layers",
        "tonnage.arch.loss",
        "tonnage.arch.masks",
        "tonnage.arch.model",
        "tonnage.arch.ops",
        "tonnage.arch.packed",
        "tonnage.arch.pairs",
        "tonnage.arch.parameters",
        "tonnage.arch.reductions",
        "tonnage.arch.rotate",
        "tonnage.arch.storage",
        "tonnage.arch.tape",
        "tonnage.cli",
        "tonnage.cli.flags",
        "tonnage.cli.options",
        "tonnage.cli.show",
        "tonnage.cli.train",
        "tonnage.devices",
        "tonnage.errors",
        "tonnage.estimate",
        "tonnage.estimate.lines",
        "tonnage.estimate.loaded",
        "tonnage.estimate.moments",
        "tonnage.estimate.outputs",
        "tonnage.estimate.origins",
        "tonnage.estimate.precision",
        "tonnage.estimate.ranked",
        "tonnage.estimate.recipe",
        "tonnage.estimate.result",
        "tonnage.estimate.settle",
        "tonnage.estimate.summary",
        "tonnage.estimate.switches",
        "tonnage.estimate.train",
        "tonnage.estimate.wanted",
        "tonnage.estimate.weighed",
        "tonnage.estimate.trained",
        "tonnage.estimate.training",
        "tonnage.estimate.verdict",
        "tonnage.evidence",
        "tonnage.families",
        "tonnage.families._aliases",
        "tonnage.families._heads",
        "tonnage.families.llama",
        "tonnage.formats",
        "tonnage.keys",
        "tonnage.memory",
        "tonnage.memory.accounts",
        "tonnage.memory.entering",
        "tonnage.memory.handing",
        "tonnage.memory.optimizers",
        "tonnage.memory.optimizers.plain",
        "tonnage.memory.overhead",
        "tonnage.memory.passes",
        "tonnage.memory.steps",
        "tonnage.memory.summed",
        "tonnage.memory.weights",
        "tonnage.record",
        "tonnage.registry",
        "tonnage.releases",
        "tonnage.report",
        "tonnage.report.text",
        "tonnage.rows",
        "tonnage.sources",
        "tonnage.sources.catalogue",
        "tonnage.stacks",
        "tonnage.stacks.transformers",
        "tonnage.tensors",
        "tonnage.timeline",
        "tonnage.units",
        "tonnage.workload",
        "tonnage.workload.training",
    ]
)
"""Modules of the package that this answer may import: one family, one stack, no engine, no search for a suggestion."""

PROBE = """
import sys
before = set(sys.modules)
EXTRA
from tonnage.cli import main
code = main(sys.argv[1:])
modules = sorted(set(sys.modules) - before)
import json
print(json.dumps({"code": code, "modules": modules}), file=sys.stderr)
"""


def probe(folder: Path, extra: str = "") -> dict[str, Any]:
    """A plain answer in a process of its own, which runs ``extra`` first."""
    home = str(Path(tonnage.__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-c", PROBE.replace("EXTRA", extra), *ANSWER]
    done = subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, text=True)
    assert "of 79.18 GiB" in done.stdout
    found: dict[str, Any] = json.loads(done.stderr)
    assert found["code"] == 0
    return found


def heavy(found: dict[str, Any]) -> set[str]:
    """Banned modules, or parts of them, that were loaded."""
    return {name for name in found["modules"] for banned in BANNED if name == banned or name.startswith(f"{banned}.")}


def strange(found: dict[str, Any]) -> set[str]:
    """Modules of the package that an answer has no need of."""
    return {name for name in found["modules"] if name.partition(".")[0] == "tonnage"} - ALLOWED


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return probe(tmp_path_factory.mktemp("plain"))


def test_an_answer_loads_nothing_heavy(plain: dict[str, Any]) -> None:
    assert heavy(plain) == set()


def test_an_answer_imports_what_it_uses(plain: dict[str, Any]) -> None:
    assert strange(plain) == set()


def test_every_allowed_module_exists() -> None:
    assert {name for name in ALLOWED if find_spec(name) is None} == set()


def test_the_checks_can_fail(tmp_path: Path) -> None:
    extra = "import dataclasses, difflib, urllib.request, tonnage.families.gemma, tonnage.plan.suggest"
    found = probe(tmp_path, extra)
    assert {"dataclasses", "difflib", "urllib.request", "email"} <= heavy(found)
    assert {"tonnage.families.gemma", "tonnage.plan.suggest"} <= strange(found)
