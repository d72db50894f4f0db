"""Open sets: one module per variant, one typed constant in it, found by listing the package."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TypeVar

from tonnage.errors import InputError, UnsupportedError, nearest

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


def chosen(
    package: str,
    name: str,
    constant: str,
    kind: type[T],
    *,
    key: str,
    what: str,
    aliases: Mapping[str, str] | None = None,
    unmodelled: tuple[str, ...] = (),
) -> T:
    """The variant that a user names; its case, and dashes for underscores, do not matter.

    Args:
        package: as ``variant``, with ``constant`` and ``kind``.
        name: as told.
        key: of the workload that names it.
        what: a variant is, in words.
        aliases: other names, and the module of each.
        unmodelled: names that are understood and have no module.

    Raises:
        UnsupportedError: one of ``unmodelled``.
        InputError: no such variant.
    """
    there = names(package)
    low = name.lower()
    module = (aliases or {}).get(low, low.replace("-", "_"))
    if module in there:
        return variant(package, module, constant, kind)
    told = tuple(n.replace("_", "-") for n in there)
    hint = f"one of {', '.join(told)}"
    if low in unmodelled:
        raise UnsupportedError(f"{key} = {name} is not modelled yet", key=key, value=name, hint=hint)
    raise InputError(
        f"unknown {what} {name!r}", key=key, value=name, nearest=nearest(low, (*told, *unmodelled)), hint=hint
    )
