"""Open sets: one module per variant, one typed constant in it, found by listing the package."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib import import_module
from typing import TypeVar

T = TypeVar("T")


@cache
def names(package: str) -> tuple[str, ...]:
    """Public modules of ``package``: listed, not imported, so that an answer pays for one variant only.

    >>> "llama" in names("tonnage.families")
    True
    """
    module = sys.modules.get(package) or import_module(package)
    found = set()
    for folder in module.__path__:
        for entry in os.listdir(folder):
            name, _, ending = entry.partition(".")
            if ending == "py" and not name.startswith("_"):
                found.add(name)
    return tuple(sorted(found))


def variant(package: str, name: str, constant: str, kind: type[T]) -> T:
    """The ``constant`` of the module ``name`` of ``package``, checked to be a ``kind``."""
    value = getattr(import_module(f"{package}.{name}"), constant)
    assert isinstance(value, kind), f"{package}.{name}.{constant} must be a {kind.__name__}"
    return value
