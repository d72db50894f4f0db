"""The answer to ``compare``: line by line, and the tensors that one side lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tonnage.report.text import table, width, wrapped

SHOWN = 12


def as_dict(left: str, right: str, lines: Mapping[str, tuple[int, int]], difference: Any) -> dict[str, Any]:
    """The JSON contract of ``compare``.

    Args:
        left: name of the one side.
        right: name of the other.
        lines: bytes on the left and on the right by component. [byte]
        difference: missing, extra and resized tensors.
    """
    return {
        "schema": 1,
        "left": left,
        "right": right,
        "lines": [
            {"name": name, "left_bytes": a, "right_bytes": b, "difference_bytes": b - a}
            for name, (a, b) in lines.items()
        ],
        "missing": list(difference.missing),
        "extra": list(difference.extra),
        "resized": [{"name": r.name, "left_elements": r.left, "right_elements": r.right} for r in difference.resized],
    }


def render(left: str, right: str, lines: Mapping[str, tuple[int, int]], difference: Any) -> str:
    """Bytes by component side by side, then what differs."""
    rows = [("component", left, right, "difference")]
    rows += [(name.replace("_", " "), f"{a:,} B", f"{b:,} B", f"{b - a:+,}") for name, (a, b) in lines.items()]
    total = [sum(pair[i] for pair in lines.values()) for i in (0, 1)]
    rows.append(("in all", f"{total[0]:,} B", f"{total[1]:,} B", f"{total[1] - total[0]:+,}"))
    out = [table(rows, right=frozenset({1, 2, 3})), ""]
    parts = {
        "missing": difference.missing,
        "extra": difference.extra,
        "resized": [f"{r.name}: {r.left:,} elements, not {r.right:,}" for r in difference.resized],
    }
    if not difference:
        return "\n".join([*out, "the same tensors, each of the same size"])
    for name, items in parts.items():
        if items:
            more = [f"... and {len(items) - SHOWN:,} more"] if len(items) > SHOWN else []
            out += wrapped(f"{name} {len(items):,}", [*items[:SHOWN], *more], width())
    return "\n".join(out)
