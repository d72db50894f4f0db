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


def written(text: str, path: str, key: str) -> None:
    """Write a text into the file that a flag names.

    Raises:
        SourceError: it cannot be written.
    """
    from tonnage.errors import SourceError

    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as e:
        raise SourceError(f"cannot write {path}: {e.strerror or e}", key=key, value=path, file=path) from None
