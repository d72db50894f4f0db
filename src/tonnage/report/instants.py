"""The instants of an answer in order: what each holds, which is the largest, and which comes next."""

from __future__ import annotations

from typing import Any, Final

from tonnage.estimate.result import Result
from tonnage.report.text import bar, table
from tonnage.units import gib

ASKED: Final = "instants"
"""As a line is named."""


def told(result: Result) -> dict[str, Any]:
    """The instants of the fullest rank, as one object."""
    found = result.fullest.as_dict()
    return {"schema": 1, "line": ASKED, **{key: found[key] for key in ("instants", "peak", "static_bytes")}}


def render(found: dict[str, Any]) -> str:
    """A row for each, with a bar as long as its share of the largest."""
    peak = found["peak"]
    second = (peak["runner_up"] or {}).get("instant")
    marks = {second: "next", peak["instant"]: "peak"}
    rows = [
        (i["name"], gib(i["bytes"]), f"{i['bytes']:,}", bar(i["bytes"], peak["bytes"]), marks.get(i["name"], ""))
        for i in found["instants"]
    ]
    resident = f"resident between: {gib(found['static_bytes'])}, {found['static_bytes']:,} B"
    return "\n".join((table(rows, right=frozenset({1, 2})), resident))
