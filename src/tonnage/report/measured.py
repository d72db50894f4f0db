"""A measured row for people: peaks by phase, and the prediction and the trace beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tonnage.report.text import table, width, wrapped
from tonnage.timeline import TIERS
from tonnage.units import gib


def render(row: Mapping[str, Any]) -> str:
    """Tables of a row."""
    device, versions = row["device"], row["versions"]
    out = [
        f"measured {row['model']}: {row.get('parameters', 0):,} parameters on {device['name']} ({device['kind']}), "
        f"torch {versions['torch']}, transformers {versions.get('transformers')}, {row['seconds']} s",
        "",
    ]
    failed = row.get("out_of_memory")
    if failed:
        out += [f"OUT OF MEMORY in {failed['phase'] or 'the start'}: {failed['message']}", ""]
    tiers = [tier for tier in TIERS if any(p.get(tier) is not None for p in row["phases"])]
    rows = [("phase", *(f"{tier}, at most" for tier in tiers))]
    for p in row["phases"]:
        rows.append((p["phase"], *(gib(p[tier]["peak"]) if p.get(tier) is not None else "" for tier in tiers)))
    out += [table(rows, right=frozenset(range(1, len(tiers) + 1))), "", *_beside(row, tiers)]
    return "\n".join(out + wrapped("note", _notes(row), width()))


def _beside(row: Mapping[str, Any], tiers: list[str]) -> list[str]:
    ways = [(name, row[name]) for name in ("prediction", "trace") if row.get(name) and "refused" not in row[name]]
    if not ways or not tiers:
        return []
    rows = [("steady state", "measured", *(cell for name, _ in ways for cell in (name, "error")))]
    for tier in tiers:
        told = row["steady"][tier]
        cells = [gib(told) if told is not None else ""]
        for _, way in ways:
            error = way.get(f"{tier}_error")
            cells += [gib(way[f"{tier}_bytes"]), "" if error is None else f"{error:+.3%}"]
        rows.append((tier, *cells))
    return [table(rows, right=frozenset(range(1, len(rows[0]))))]


def _notes(row: Mapping[str, Any]) -> list[str]:
    notes = [
        f"no {name}: {row[name]['refused']}" for name in ("prediction", "trace") if "refused" in (row.get(name) or {})
    ]
    kind = row["device"]["kind"]
    if kind == "cpu":
        notes.append("on a CPU: what tensors ask for, by the profiler; other kernels run than on a GPU")
    if kind == "mps":
        notes.append("peaks are looked up every 2 ms: lower bounds")
    if row.get("context_bytes") is not None and row["device"].get("used_by_others_bytes") is None:
        notes.append("what others hold on the device is not known, and counted with the context")
    if row.get("retries"):
        notes.append(f"cached memory was given back for want of memory {row['retries']} times")
    return notes
