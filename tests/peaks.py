"""Recorded runs of a training step: how each is named, and what the closed form has in its place."""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn
from tonnage.estimate.training import Step


def run_name(run: dict[str, Any]) -> str:
    """A run's config and what was said, as the name of a test."""
    return " ".join(str(v) for v in (run["config"], *run["said"].values()))


def peaks(config: dict[str, Any], said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], Any]:
    """The most that tensors take forward, backward and in the optimizer's step, and the result. [byte]"""
    found = [0, 0, 0]
    moments = Step.moments

    def watched(self: Step) -> Any:
        for m in moments(self):
            kind = 2 if m.name == "optimizer step" else 1 if "backward" in m.name else 0
            found[kind] = max(found[kind], m.highest)
            yield m

    monkeypatch.setattr(Step, "moments", watched)
    result = tn.train({"config": config}, suggest=False, replay=True, **said)
    return found, result
