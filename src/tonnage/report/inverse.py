"""Tables of inverse questions for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tonnage.report.text import table
from tonnage.units import count, gib

VERDICTS = {"fits": "fits", "uncertain": "uncertain", "does not fit": "-"}
QUESTIONS = {
    "context": "largest context that fits", "concurrency": "largest concurrency that fits",
    "quant": "largest quantization that fits", "kv_dtype": "largest cache that fits",
    "gpus": "smallest number of devices", "model": "largest model that fits",
}  # fmt: skip


def render(found: Mapping[str, Any]) -> str:
    """The rows of one key, or a grid of two, and the row that answers the question."""
    keys = found["keys"]
    if len(keys) == 2:
        return _grid(found)
    key = keys[0]
    rows: list[tuple[str, ...]] = [
        (key.replace("_", "-"), "verdict", "device", "weights", "state", "largest context", "concurrency")
    ]
    rows += [_row(row, key) for row in found["rows"] if key != "model" or row["verdict"] != "does not fit"]
    out = [table(rows, right=frozenset({2, 3, 4, 5, 6}))]
    if key in QUESTIONS:
        best = found["best"]
        out.append(f"{QUESTIONS[key]}: {'none of these' if best is None else _value(best[key])}")
    return "\n".join(out)


def _value(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _row(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    name = _value(row[key]) + (f" ({count(row['parameters'])})" if key == "model" else "")
    if row["refused"] is not None:
        return name, f"refused: {row['refused'][:70]}", "", "", "", "", ""
    sizes = [gib(row[k]) if row[k] is not None else "" for k in ("device_bytes", "weights_bytes", "kv_bytes")]
    most = ["" if row[k] is None else f"{row[k]:,}" for k in ("max_context", "max_concurrency")]
    return name, VERDICTS.get(row["verdict"], ""), *sizes, *most


def _grid(found: Mapping[str, Any]) -> str:
    """One key down, the other across; a cell tells the state of the sequences where it fits."""
    down, across = found["keys"]
    columns = list(dict.fromkeys(row[across] for row in found["rows"]))
    cells = {(row[down], row[across]): row for row in found["rows"]}
    rows = [(f"{down} / {across}", *(_value(c) for c in columns))]
    for value in dict.fromkeys(row[down] for row in found["rows"]):
        rows.append((_value(value), *(_cell(cells.get((value, c))) for c in columns)))
    legend = "a cell: the state of the sequences where it fits, with ? where that is uncertain; - where it does not fit"
    return f"{table(rows, right=frozenset(range(1, len(columns) + 1)))}\n{legend}"


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row["refused"] is not None:
        return "x"
    if row["verdict"] == "does not fit":
        return "-"
    return gib(row["kv_bytes"] or 0, 1) + ("?" if row["verdict"] == "uncertain" else "")
