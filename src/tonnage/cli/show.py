"""Print a result: a table for people, one JSON object for programs."""

from __future__ import annotations

from typing import Any


def shown(result: Any, *, as_json: bool) -> None:
    """Print an answer."""
    if as_json:
        dumped(result.as_dict())
        return
    from tonnage.report.text import render

    print(render(result))


def dumped(value: Any) -> None:
    """Print one JSON object."""
    import json

    print(json.dumps(value, ensure_ascii=False, allow_nan=False))
