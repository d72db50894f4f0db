"""Tables of rows as JSON with a row on a line, so that an answer parses the one row that it needs.

The file is plain JSON: ``{"head": {...},`` on its first line, then ``"rows":{`` and a line for each row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from typing import Any, Final

FOLDER: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")


class Rows:
    """One table of ``data/``.

    Args:
        name: of the file, without ending.
    """

    def __init__(self, name: str) -> None:
        with open(os.path.join(FOLDER, f"{name}.json"), encoding="utf-8") as file:
            self._text = file.read()
        first = self._text.index("\n")
        self.head: dict[str, Any] = json.loads(self._text[: first - 1] + "}")["head"]

    def row(self, name: str) -> dict[str, Any] | None:
        """The row of that name, or None."""
        key = f'\n"{name}":'
        at = self._text.find(key)
        if at < 0 or '"' in name or "\n" in name:
            return None
        end = self._text.index("\n", at + 1)
        found: dict[str, Any] = json.loads(self._text[at + len(key) : end].rstrip(","))
        return found

    def names(self) -> tuple[str, ...]:
        """The names of all rows, in the order of the table."""
        return tuple(line[1 : line.index('":')] for line in self._text.split("\n")[2:] if line.startswith('"'))

    def all(self) -> dict[str, dict[str, Any]]:
        """Every row by its name."""
        rows: dict[str, dict[str, Any]] = json.loads(self._text)["rows"]
        return rows


def listed(name: str, keys: Collection[str]) -> list[tuple[str, ...]]:
    """The rows of a list of ``data/`` whose first word is one of the keys: text, a row a line.

    Args:
        name: of the file in its folder, without ending.
        keys: first words.
    """
    with open(os.path.join(FOLDER, *name.split("/")) + ".txt", encoding="utf-8") as file:
        return [tuple(line.split()) for line in file if line.partition(" ")[0] in keys]
