"""The table of cases: what others measured, under which workload, and where that stands."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

FOLDER: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cases")

UNITS: Final = {
    "parameters": 1,
    "tokens": 1,
    "blocks": 1,
    "M parameters": 10**6,
    "B": 1,
    "MB": 10**6,
    "GB": 10**9,
    "MiB": 2**20,
    "GiB": 2**30,
}

EXACTNESS: Final = {
    "exact": "a count or a size that a program printed, or that follows from the tensors written out",
    "traced": "the storages of the real code, run on fake tensors",
    "measured_peak": "a counter over a run on a device",
}

KEYS: Final = {"id", "model", "workload", "measured", "source", "exactness", "seen", "note"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One figure that others measured.

    Args:
        id: unique in its group.
        model: a catalogue name, an inline config, or the name of a recording or of an operator.
        workload: every key, as a workload file has it; ``{"task": "params"}`` asks for the model alone,
            ``{"task": "replay"}`` for a recording of the caching allocator, ``{"task": "operator"}`` for an operator.
        measured: the figure. [byte, or parameters]
        step: distance of two figures that the source could have printed; 0 where it printed all digits.
        counter: which field of a result the figure is compared with.
        source: document, repository or package, with its version.
        exactness: a key of ``EXACTNESS``.
        seen: whether it was looked at while the tool was built; False for a case that was held out.
        note: what the source leaves open, or how its figure reads.
    """

    id: str
    model: str | Mapping[str, Any]
    workload: Mapping[str, Any]
    measured: float
    step: float
    counter: str
    source: str
    exactness: str
    seen: bool
    note: str = ""


def groups() -> tuple[str, ...]:
    """The names of the groups: one file each."""
    return tuple(sorted(name.removesuffix(".jsonl") for name in os.listdir(FOLDER) if name.endswith(".jsonl")))


def load(group: str) -> tuple[Case, ...]:
    """The cases of one group."""
    return tuple(_read(os.path.join(FOLDER, f"{group}.jsonl")))


def _read(path: str) -> Iterator[Case]:
    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            row = json.loads(text)
            unknown = set(row) - KEYS
            if unknown:
                raise ValueError(f"{path}:{number}: unknown keys {', '.join(sorted(unknown))}")
            yield case(row)


def case(row: Mapping[str, Any]) -> Case:
    """A case from its row.

    >>> case({"id": "a", "model": "gpt2", "workload": {"task": "params"}, "source": "s", "exactness": "exact",
    ...       "seen": True, "measured": {"value": 2, "unit": "MiB", "counter": "parameters"}}).measured
    2097152
    """
    figure = row["measured"]
    unit = UNITS[figure["unit"]]
    return Case(
        id=row["id"],
        model=row["model"],
        workload=row["workload"],
        measured=figure["value"] * unit,
        step=figure.get("step", 0) * unit,
        counter=figure["counter"],
        source=row["source"],
        exactness=row["exactness"],
        seen=row["seen"],
        note=row.get("note", ""),
    )
