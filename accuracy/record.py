"""The recorded figures of every group: a group may get better, and worse only with a reason that is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from accuracy.score import Summary

PATH: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recorded.json")

MEASURES: Final = ("refused", "median", "p90", "worst", "too_low")
"""The smaller the better. Besides them, a group must not lose cases."""

TOLERANCE: Final = 1e-9
"""Errors are recorded to nine digits."""

Record = dict[str, dict[str, Any]]


def read(path: str = PATH) -> Record:
    """What is recorded; empty where nothing is."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        found: Record = json.load(file)
    return found


def worse(now: Summary, before: Mapping[str, Any]) -> list[str]:
    """What got worse, in words.

    >>> better = Summary(cases=2, held_out=0, refused=0, median=0.1, p90=0.1, worst=0.1, too_low=0.0)
    >>> worse(better, {"cases": 2, "refused": 0, "median": 0.1, "p90": 0.1, "worst": 0.05, "too_low": 0.0})
    ['worst 0.05 -> 0.1']
    """
    values = asdict(now)
    found = [f"{m} {before[m]:.6g} -> {values[m]:.6g}" for m in MEASURES if values[m] > before[m] + TOLERANCE]
    if now.cases < before["cases"]:
        found.append(f"cases {before['cases']} -> {now.cases}")
    return found


def entry(now: Summary, before: Mapping[str, Any] | None, reason: str | None) -> dict[str, Any]:
    """The new record of a group, with the reasons for which it was allowed to get worse."""
    figures = {key: round(value, 9) for key, value in asdict(now).items()}
    accepted = list(before.get("accepted", ())) if before else []
    if before and reason and (what := worse(now, before)):
        accepted.append({"reason": reason, "worse": what})
    return {**figures, "accepted": accepted}


def write(record: Record, path: str = PATH) -> None:
    """Write the record, groups in order."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(dict(sorted(record.items())), file, indent=2)
        file.write("\n")
