"""The rules of thumb as a table for people: what each says beside the project's own figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tonnage.report.text import cut, table, width, wrapped

HEAD: Final = ("", "rule", "unit", "by the rule", "tonnage", "ratio")
UNITS: Final = {"byte": "B", "parameter": "parameters", "x": "times", "share": "share"}
RIGHT: Final = frozenset({3, 4, 5})


def render(rows: Sequence[Mapping[str, Any]], model: str | None = None) -> str:
    """Figures first, then what each rule leaves out and where its text is wrong.

    Args:
        rows: of ``explain rules``, as its JSON has them.
        model: what the figures are for; the texts' own cases where it is None.
    """
    columns = width()
    figures = [_cells(row) for row in rows]
    left = columns - 2 - max(len("  ".join(cells)) for cells in _padded(figures))
    short = [cut(row["statement"], left) for row in rows]
    lines = [(cells[0], statement, *cells[1:]) for cells, statement in zip(figures, short, strict=True)]
    title = f"rules of thumb for {model}" if model else "rules of thumb, for the cases of their texts"
    out = [f"{title}, beside tonnage's own figures", "", table([HEAD, *lines], right=RIGHT), ""]
    for row, statement in zip(rows, short, strict=True):
        whole = row["statement"] if statement != row["statement"] else None
        erratum = f"erratum: {row['erratum']}" if row["erratum"] else None
        notes = [text for text in (whole, row["note"], erratum) if text]
        out += wrapped(row["id"], notes, columns)
    return "\n".join(out)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    value, own = row["value"], row["own_value"]
    ratio = f"{own / value:.2f}" if value and own is not None else ""
    return row["id"], UNITS.get(row["unit"] or "", ""), _number(value), _number(own), ratio


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _padded(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Cells as wide as the table will set them, its head included."""
    heads = (HEAD[0], *HEAD[2:])
    widths = [max(len(head), *(len(row[i]) for row in rows)) for i, head in enumerate(heads)]
    return [[cell.ljust(w) for cell, w in zip(row, widths, strict=True)] for row in rows]
