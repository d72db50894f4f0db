"""Ways to store, to load and to make a checkpoint: one table each, and rows of the JSON contract."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.memory.store.ways import PLACES, Subject, Way, own_format, subject
from tonnage.report.text import cut, table, width
from tonnage.units import gib

KINDS: Final = ("storage", "loading", "jobs")
"""What ``tonnage params`` tells on demand."""
TITLES: Final = {
    "files": "on disk",
    "checkpoints": "training checkpoints",
    "loading": "loading, at its peak",
    "jobs": "making a checkpoint, at its peak",
}


def _rows(kind: str) -> dict[str, Callable[[Subject], Iterable[Way]]]:
    """What a kind shows, by key. Imported late: a plain answer needs none of it."""
    if kind == "storage":
        from tonnage.memory.store import checkpoints, files

        return {"files": files.ways, "checkpoints": checkpoints.ways}
    if kind == "loading":
        from tonnage.memory.store import loading, quantizing

        return {"loading": lambda s: (*loading.ways(s), *quantizing.ways(s))}
    from tonnage.memory.store import jobs

    return {"jobs": jobs.ways}


def found(model: Model, kinds: Iterable[str]) -> dict[str, list[Way]]:
    """The ways of some kinds, by the key that they have in JSON."""
    s = subject(model)
    return {key: list(make(s)) for kind in kinds for key, make in _rows(kind).items()}


def as_dict(model: Model, kinds: Iterable[str]) -> dict[str, Any]:
    """What the kinds add to the JSON contract of ``params``."""
    return {key: [way.as_dict() for way in ways] for key, ways in found(model, kinds).items()}


def render(model: Model, kinds: Iterable[str]) -> str:
    """A table for each key: a row a way, with the range where it is not exact."""
    out = [_table(TITLES[key], ways) for key, ways in found(model, kinds).items()]
    if model.quantization is not None and set(kinds) & {"loading", "jobs"}:
        form = own_format(model).name
        out.append(f"loading and jobs start from a checkpoint in {form}; the model's own is quantized")
    return "\n\n".join(out)


def _table(title: str, ways: list[Way]) -> str:
    places = [place for place in PLACES if any(way.total(place) is not None for way in ways)]
    rows = [(title, *places, "trust", "")]
    for way in ways:
        rows.append((way.name, *(_cell(way, place) for place in places), way.trust, way.what))
    # The last column takes what the terminal leaves.
    taken = sum(max(len(row[i]) for row in rows) + 2 for i in range(len(places) + 2))
    rows = [(*row[:-1], cut(row[-1], width() - taken)) for row in rows]
    return table(rows, right=frozenset(range(1, len(places) + 1)))


def _cell(way: Way, place: str) -> str:
    """A sum; its two ends where they read differently. Mapped pages may always be dropped, down to none."""
    size, low, high = way.total(place), way.total(place, "low_bytes"), way.total(place, "high_bytes")
    if size is None or low is None or high is None:
        return ""
    if place == "mapped" or gib(low) == gib(high):
        return gib(size)
    most, unit = gib(high).split()
    least, own = gib(low).split()
    return f"{least} to {most} {unit}" if own == unit or not low else f"{gib(low)} to {gib(high)}"
