"""What a table of perturbations is made of."""

from __future__ import annotations

from typing import Any

Table = dict[str | tuple[str, ...], tuple[Any, ...]]
"""Keys of a config and the values that they are drawn from; keys whose values depend on each other stand together."""

FLAGS = (True, False)


def without(table: Table, *keys: str) -> Table:
    return {k: v for k, v in table.items() if k not in keys}
