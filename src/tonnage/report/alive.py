"""What a history tells: what is alive at its peak, by component and place; and as a side of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tonnage.history import Group, History, Life, grouped
from tonnage.report.text import cut, table, width, wrapped
from tonnage.timeline import TIERS
from tonnage.units import gib

SHOWN: Final = 12
"""Rows of a table, of a list and of the largest storages."""
FRAMES: Final = 40
"""Frames of a stack in JSON."""


def as_dict(history: History) -> dict[str, Any]:
    """What a profile tells, for ``replay`` in JSON."""
    return {
        "schema": 1,
        "recording": history.file,
        "kind": history.kind,
        "device": history.device,
        "tier": history.tier,
        "storages": len(history.lives),
        "events": len(history.order),
        "peak_bytes": {tier: history.highest(tier) for tier in TIERS},
        "peak": peak_dict(history),
        "notes": list(history.notes),
    }


def peak_dict(history: History) -> dict[str, Any]:
    """What is alive at the peak."""
    at = history.peak()
    alive = history.alive(at)
    return {
        "event": at,
        "time_ns": history.times[at] if history.times else None,
        "within": [span.name for span in history.spans if span.start <= at < span.stop],
        "bytes": sum(life.size for life in alive),
        "by_component": [_group(g) for g in grouped(alive, "name")],
        "by_place": [_group(g) for g in grouped(alive, "where")[:SHOWN]],
        "by_operation": [_group(g) for g in grouped(alive, "what")[:SHOWN]],
        "largest": [_life(life) for life in largest(alive)],
    }


def _group(group: Group) -> dict[str, Any]:
    return {"name": group.name, "storages": group.storages, "bytes": group.bytes}


def _life(life: Life) -> dict[str, Any]:
    return {
        "bytes": life.size, "component": life.name, "operation": life.what, "place": life.where,
        "stack": list(life.stack[:FRAMES]),
    }  # fmt: skip


def largest(alive: Sequence[Life]) -> list[Life]:
    """The largest storages."""
    return sorted(alive, key=lambda life: -life.size)[:SHOWN]


def render(history: History) -> str:
    """Tables of what is alive at the peak."""
    levels = [
        f"{tier} {gib(found)}" for tier in TIERS if (found := history.highest(tier)) is not None and len(history.order)
    ]
    device = f" of {history.device}" if history.device else ""
    out = [f"{history.kind}{device}: {len(history.order):,} events, {len(history.lives):,} storages"]
    out += [f"at most {', '.join(levels)}", "", *attribution(history)]
    return "\n".join(out + wrapped("note", history.notes, width()))


def attribution(history: History) -> list[str]:
    """What is alive at the peak, in tables."""
    at = history.peak()
    if at < 0:
        return ["nothing was allocated"]
    alive = history.alive(at)
    within = [span.name for span in history.spans if span.start <= at < span.stop]
    when = f", {history.times[at] / 1e9:.3f} s after the first" if history.times and history.times[at] else ""
    inside = f", in {' > '.join(within[:4])}" if within else ""
    out = [_table(f"alive at the peak (event {at:,}{when}{inside})", grouped(alive, "name"), named=True)]
    places = [g for g in grouped(alive, "where") if g.name]
    if places:
        out += ["", _table("by place in the program", places)]
    operations = [g for g in grouped(alive, "what") if g.name]
    if operations:
        out += ["", _table("by operation", operations)]
    return out


def _table(title: str, groups: Sequence[Group], *, named: bool = False) -> str:
    room = max(width() - 40, 30)
    rows = [(title, "storages", "bytes", "")]
    for g in groups[:SHOWN]:
        name = g.name.removeprefix("other:").replace("_", " ") if named else _end(g.name, room)
        rows.append((name, f"{g.storages:,}", f"{g.bytes:,} B", gib(g.bytes)))
    rest = groups[SHOWN:]
    if rest:
        rest_bytes = sum(g.bytes for g in rest)
        rows.append((f"{len(rest):,} more", f"{sum(g.storages for g in rest):,}", f"{rest_bytes:,} B", gib(rest_bytes)))
    rows[0] = (cut(title, room + 20), *rows[0][1:])
    return table(rows, right=frozenset({1, 2, 3}))


def _end(text: str, room: int) -> str:
    """The end of a long path, which tells more than its beginning.

    >>> _end("/usr/lib/python3/train.py:3 step", 15)
    '...in.py:3 step'
    """
    return text if len(text) <= room else f"...{text[3 - room :]}"


def as_result(history: History) -> dict[str, Any]:
    """A history as a side of ``compare``: lines at its peak, tiers that it does not tell being null."""
    alive = history.alive(history.peak())
    lines = [
        {"name": g.name, "tier": history.tier, "bytes": g.bytes, "low_bytes": g.bytes, "high_bytes": g.bytes,
         "trust": "measured", "why": f"{g.storages:,} storages", "reference": history.kind}
        for g in grouped(alive, "name")
    ]  # fmt: skip
    highest = {tier: history.highest(tier) for tier in TIERS}
    below = sum(life.size for life in alive)
    for tier, name in (("allocated", "rounding"), ("reserved", "fragmentation")):
        level = highest[tier]
        if level is None or TIERS.index(tier) <= TIERS.index(history.tier):
            continue
        lines.append(
            {"name": name, "tier": tier, "bytes": level - below, "low_bytes": level - below,
             "high_bytes": level - below, "trust": "measured", "why": f"the largest {tier} over what is below it",
             "reference": history.kind}
        )  # fmt: skip
        below = level
    rank = {
        "rank": history.device or "all",
        "multiplicity": 1,
        "peak": {"instant": _named(history), "bytes": below, "runner_up": None},
        **{f"{tier}_bytes": highest[tier] for tier in TIERS},
        "components": lines,
        "instants": [],
    }
    return {"schema": 1, "kind": history.kind, "workload": {}, "ranks": [rank], "caveats": list(history.notes)}


def _named(history: History) -> str:
    at = history.peak()
    inside = [span.name for span in history.spans if span.start <= at < span.stop]
    return inside[-1] if inside else f"event {at:,}"
