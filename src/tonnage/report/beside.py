"""Two results side by side, line by line: a prediction, a trace, a result from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tonnage.report.text import table, wrapped
from tonnage.report.text import width as columns
from tonnage.timeline import TIERS

Answer = Mapping[str, Any]
"""A result of the JSON contract."""
Line = dict[str, Any]

UNASKED = ("gpu", "in_use", "stack_version", "engine_version", "task", "model", "lora_targets")
"""Keys of a workload that may be written in several ways, or change no line."""


def as_dict(left: str, right: str, a: Answer, b: Answer) -> dict[str, Any]:
    """The JSON contract of ``compare`` for two results.

    Args:
        left: name of the one side.
        right: name of the other.
        a: the one result, by its fullest rank.
        b: the other.
    """
    mine, theirs = _fullest(a), _fullest(b)
    lines = _beside(*_aligned(_components(mine), _components(theirs)))
    # A profile tells some tiers only: what it does not tell is null.
    sums = _beside(*({(t, t): n for t in TIERS if (n := r[f"{t}_bytes"]) is not None} for r in (mine, theirs)))
    instants = _beside(*({(i["name"], "instant"): i["bytes"] for i in r["instants"]} for r in (mine, theirs)))
    level = _equal_up_to(lines, sums)
    return {
        "schema": 1,
        "left": left,
        "right": right,
        "lines": lines,
        "tiers": sums,
        "instants": instants,
        "peak": [r["peak"]["instant"] for r in (mine, theirs)],
        "workload": _differences(a["workload"], b["workload"]),
        "missing": [x["name"] for x in lines if x["right_bytes"] is None],
        "extra": [x["name"] for x in lines if x["left_bytes"] is None],
        "resized": [],
        "equal_up_to": level,
        "equal": level is not None
        and not any(x["difference_bytes"] for x in instants if x["difference_bytes"] is not None),
    }


def _fullest(answer: Answer) -> Mapping[str, Any]:
    rank: Mapping[str, Any] = max(answer["ranks"], key=lambda r: r["device_bytes"] or 0)
    return rank


def _components(rank: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """Lines of one name and tier as one."""
    out: dict[tuple[str, str], int] = {}
    for c in rank["components"]:
        key = (str(c["name"]), str(c["tier"]))
        out[key] = out.get(key, 0) + int(c["bytes"])
    return out


def _aligned(
    a: dict[tuple[str, str], int], b: dict[tuple[str, str], int]
) -> tuple[dict[tuple[str, str], int], dict[tuple[str, str], int]]:
    """The lines of the right under the tiers of the left, where each has a name in one tier alone.

    A profile of an accelerator tells tensors in whole blocks, a prediction as they were asked for.
    """
    tiers = [{name: [t for n, t in side if n == name] for name, _ in side} for side in (a, b)]
    out = {}
    for (name, tier), size in b.items():
        left = tiers[0].get(name, [])
        alone = len(left) == 1 and len(tiers[1][name]) == 1
        out[name, left[0] if alone else tier] = size
    return a, out


def _beside(a: Mapping[tuple[str, str], int], b: Mapping[tuple[str, str], int]) -> list[Line]:
    """What both have by name, and what only one has."""
    return [
        {
            "name": key[0], "tier": key[1], "left_bytes": a.get(key), "right_bytes": b.get(key),
            "difference_bytes": b[key] - a[key] if key in a and key in b else None,
        }
        for key in dict.fromkeys((*a, *b))
    ]  # fmt: skip


def _equal_up_to(lines: list[Line], sums: list[Line]) -> str | None:
    """The highest tier up to which every line and sum is equal; None where the first differs."""
    found = None
    for tier in TIERS:
        if any(x["difference_bytes"] != 0 for x in (*lines, *sums) if x["tier"] == tier):
            break
        found = tier
    return found


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Keys of the workload that both say, and say differently."""
    return [
        {"key": key, "left": a[key], "right": b[key]}
        for key in a
        if a[key] is not None and b.get(key) is not None and a[key] != b[key] and key not in UNASKED
    ]


def render(left: str, right: str, a: Answer, b: Answer) -> str:
    """A table of lines and tiers, then whether they are equal."""
    found = as_dict(left, right, a, b)
    rows = [("", left, right, "difference")]
    for tier in TIERS:
        rows += [_row(x["name"].replace("_", " "), x) for x in found["lines"] if x["tier"] == tier]
        rows += [_row(f"= {tier}", x) for x in found["tiers"] if x["tier"] == tier]
    out = [table(rows, right=frozenset({1, 2, 3})), ""]
    peaks = found["peak"]
    out.append(f"peak at {peaks[0]!r}" if peaks[0] == peaks[1] else f"peak at {peaks[0]!r} and at {peaks[1]!r}")
    shared = [x for x in found["instants"] if x["difference_bytes"] is not None]
    other = [x for x in shared if x["difference_bytes"]]
    if shared:
        out.append(f"instants: {len(shared) - len(other)} of {len(shared)} that both name are equal")
    out += [
        f"  {x['name']}: {x['left_bytes']:,} B, {x['right_bytes']:,} B, {x['difference_bytes']:+,}" for x in other[:12]
    ]
    told = [f"{d['key']}: {d['left']} and {d['right']}" for d in found["workload"]]
    if told:
        out += wrapped("asked", told, columns())
    out.append(_verdict(found["equal_up_to"]))
    return "\n".join(out)


def _row(name: str, line: Line) -> tuple[str, str, str, str]:
    cells = ["" if n is None else f"{n:,} B" for n in (line["left_bytes"], line["right_bytes"])]
    more = line["difference_bytes"]
    return name, cells[0], cells[1], "only one" if more is None else f"{more:+,}" if more else "equal"


def _verdict(level: str | None) -> str:
    if level is None:
        return "they differ from the tensors on"
    return f"equal to the byte, line by line, up to what is {level}"
