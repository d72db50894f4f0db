"""Parts of a model under other names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tonnage.record import Record
from tonnage.tensors import Tensor

PATHS: Final = ("name", "alias_of", "bias_alias_of", "project")
"""Fields that hold the name of a module or a tensor."""
LISTS: Final = ("further",)
"""Fields that hold several."""


def moved(part: Any, move: Callable[[str], str]) -> Any:
    """The same record with every name in it moved."""
    if isinstance(part, Tensor):
        alias = None if part.alias_of is None else move(part.alias_of)
        return Tensor(move(part.name), part.axes, part.role, part.dims, part.layer, alias, part.dtype)
    if isinstance(part, tuple):
        return tuple(moved(one, move) for one in part)
    if not isinstance(part, Record):
        return part
    changed: dict[str, Any] = {}
    for field in part._fields:
        value = getattr(part, field)
        if field in LISTS:
            changed[field] = tuple(map(move, value))
        else:
            changed[field] = (move(value) if value else value) if field in PATHS else moved(value, move)
    return part.but(**changed)
