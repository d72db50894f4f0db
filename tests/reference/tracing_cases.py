"""What the tests of the tracer run: small configs of many families, traced in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tonnage.estimate.moments import Moment
from tonnage.estimate.training import Step
from tonnage.families import model_from
from tonnage.tracing import ask, request
from tonnage.tracing.levels import Levels
from tonnage.tracing.stream import Traced
from tonnage.workload import workload
from tonnage.workload.training import Train

CONFIGS: Final[dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent.parent / "data" / "traces.json").read_text()
)["families"]
"""Small configs; names with a parenthesis are further variants of a family."""
FAMILIES: Final = [name for name in CONFIGS if "(" not in name]


def traced(config: dict[str, Any], *, layers: str = "few", head: str | None = None, **said: Any) -> Traced:
    """Two training steps, traced in this process; ``said`` as the keys of a workload."""
    # Imports torch, without which the tests of the tracer are skipped.
    from tonnage.tracing import run

    model = model_from(config)
    asked = request.training(config, workload(Train, said), None, name="", head=head or ask.own_head(config, model))
    return run.model_trace({**asked.job, "layers": layers})


def kernel_settings(plain: str) -> dict[str, dict[str, Any]]:
    """Keys of a workload by which a kernel of attention is tried; ``plain`` is a further precision without autocast."""
    return {
        "mixed": {"precision": "bf16-mixed"},
        "autocast": {"precision": "bf16-autocast"},
        plain: {"precision": plain},
        "recompute": {"recompute": "full"},
        "one sequence": {"batch": 1, "seq": 77},
        "lora": {"lora_rank": 8, "lora_targets": ["q_proj", "v_proj"]},
        "accumulated": {"accumulate": 4},
        "longer": {"seq": 300},
    }


def watched(monkeypatch: pytest.MonkeyPatch, see: Callable[[Step, Moment], None]) -> None:
    """Show every instant of the closed form's steps that follow to ``see``, while the step is at it."""
    moments = Step.moments

    def each(self: Step) -> Iterator[Moment]:
        for m in moments(self):
            see(self, m)
            yield m

    monkeypatch.setattr(Step, "moments", each)


def most_by_part(
    monkeypatch: pytest.MonkeyPatch, named: Callable[[Step, str], str] = lambda step, name: name
) -> dict[str, int]:
    """The most that tensors take in each part of the closed form's steps that follow, filled as they run. [byte]

    ``named`` is what a trace calls a step's instant of this name.
    """
    most: dict[str, int] = {}

    def see(step: Step, m: Moment) -> None:
        part = named(step, m.name)
        most[part] = max(most.get(part, 0), m.highest)

    watched(monkeypatch, see)
    return most


def traced_by_part(found: Levels) -> dict[str, int]:
    """The most that tensors take in each part of a trace, from just before it on. [byte]"""
    got: dict[str, int] = {}
    for part in found.parts:
        reached = max(found.requested[i] for i in range(part.start - 1, part.stop))
        got[part.name] = max(got.get(part.name, 0), reached)
    return got
