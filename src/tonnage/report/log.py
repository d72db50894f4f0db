"""A prediction beside the log of a run."""

from __future__ import annotations

from typing import Any

from tonnage.plan.against import Against, Line
from tonnage.report.text import table, width, wrapped
from tonnage.units import gib

WORDS = {"equal": "as printed", "in range": "in range", "differs": "", "unpredicted": "not predicted"}


def as_dict(left: str, right: str, found: Against) -> dict[str, Any]:
    """The JSON contract of ``compare`` for a log.

    Args:
        left: what was predicted.
        right: the log.
        found: one held against the other.
    """
    return {
        "schema": 1,
        "left": left,
        "right": right,
        "engine": found.told.engine,
        "release": found.told.release,
        "lines": [_line(line) for line in found.lines],
        "counts": [{"name": name, "left": mine, "right": theirs} for name, mine, theirs in found.counts],
        "missing": list(found.missing),
        "extra": [_name(line) for line in found.lines if line.predicted is None],
        "resized": [],
        "workload": [{"key": key, "left": mine, "right": theirs} for key, mine, theirs in found.stated],
        "tokens_follow": found.follows,
        "explained": [{"change": dict(change), "gives": list(gives)} for change, gives in found.explained],
        "notes": list(found.notes),
        "equal": not found.differs,
    }


def _name(line: Line) -> str:
    return f"{line.figure.name} {line.figure.device}".strip()


def _line(line: Line) -> dict[str, Any]:
    low, likely, high = line.predicted or (None, None, None)
    return {
        "name": line.figure.name,
        "device": line.figure.device or None,
        "left_bytes": likely,
        "right_bytes": line.figure.bytes,
        "difference_bytes": None if likely is None else line.figure.bytes - likely,
        "left_low_bytes": low,
        "left_high_bytes": high,
        "right_precision_bytes": line.figure.half,
        "state": line.state,
        "line": line.figure.text,
    }


def render(left: str, right: str, found: Against) -> str:
    """Figures side by side, then counts, then what would explain a difference."""
    told = found.told
    who = f"{told.engine} {told.release}" if told.release else told.engine
    columns = width()
    rows = [("component", "predicted", "range", f"printed ({who})", "difference")]
    rows += [_row(line) for line in found.lines]
    rows += [
        (name.replace("_", " "), "" if mine is None else _number(mine), "", _number(theirs), _more(mine, theirs))
        for name, mine, theirs in found.counts
    ]
    out = [f"{left}", f"beside {right}", "", table(rows, right=frozenset({1, 2, 3, 4}))]
    out += ["", *wrapped("not printed", found.missing, columns)] if found.missing else [""]
    stated = [f"{key} = {theirs} in the log, {mine} in the prediction" for key, mine, theirs in found.stated]
    out += wrapped("it states", stated, columns)
    if found.follows is not None and told.engine != "llamacpp":
        by = (
            "follow from the memory that it prints for the cache"
            if found.follows
            else ("do not follow from the memory that it prints for the cache, under these assumptions")
        )
        what = "tokens" if "tokens" in told.counts else "blocks"
        out += wrapped("pool", [f"the {what} {by}"], columns)
    out += wrapped("explained by", [_explained(change, gives) for change, gives in found.explained], columns)
    out += wrapped("note", found.notes, columns)
    if found.differs and not found.explained and not stated:
        out += wrapped("note", ["no single assumption that was tried gives the figures that differ"], columns)
    return "\n".join(out)


def _row(line: Line) -> tuple[str, str, str, str, str]:
    name = _name(line).removeprefix("other:").replace("_", " ")
    printed = gib(line.figure.bytes)
    if line.predicted is None:
        return name, "", "", printed, WORDS["unpredicted"]
    low, likely, high = line.predicted
    span = "" if low == high else f"{gib(low)} to {gib(high)}"
    more = line.figure.bytes - likely
    state = WORDS[line.state] or f"{'+' if more > 0 else '-'}{gib(abs(more))}"
    return name, gib(likely), span, printed, state


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:,.2f}"


def _more(mine: float | None, theirs: float) -> str:
    if mine is None:
        return WORDS["unpredicted"]
    return "as printed" if mine == theirs else f"{theirs - mine:+,.2f}".removesuffix(".00")


def _explained(change: Any, gives: tuple[str, ...]) -> str:
    keys = ", ".join(f"{key} = {value}" for key, value in change.items())
    exact = "" if any("%" in name for name in gives) else " as printed"
    return f"{keys}: gives {' and '.join(gives)}{exact}"
