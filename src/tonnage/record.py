"""Frozen records for what never leaves the program.

A dataclass costs about a millisecond to create, and an answer needs some twenty kinds of block, layer and recipe: a
third of its whole time. A record takes its fields from the class body as a dataclass does, but makes no code. What is
validated or serialised (workloads, devices, results) stays a dataclass.
"""

from __future__ import annotations

from typing import Any, Self, dataclass_transform


@dataclass_transform(frozen_default=True, kw_only_default=False)
class Record:
    """Base of a frozen record: annotated names are its fields, values in the class body their defaults.

    >>> class Point(Record):
    ...     x: int
    ...     y: int = 0
    >>> Point(1), Point(1).but(y=2)
    (Point(x=1, y=0), Point(x=1, y=2))
    """

    _fields: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        stated = cls.__dict__.get("__annotations__", {})
        own = [name for name, kind in stated.items() if not name.startswith("_") and "ClassVar" not in str(kind)]
        cls._fields = (*cls._fields, *(name for name in own if name not in cls._fields))

    def __init__(self, *args: Any, **given: Any) -> None:
        fields = self._fields
        given.update(zip(fields, args, strict=False))
        unknown = [name for name in given if name not in fields]
        missing = [name for name in fields if name not in given and not hasattr(type(self), name)]
        if unknown or missing or len(args) > len(fields):
            raise TypeError(f"{type(self).__name__}: missing {missing}, unknown {unknown}")
        self.__dict__.update(given)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def but(self, **changes: Any) -> Self:
        """The same record with other values for some fields."""
        return type(self)(**{**self.__dict__, **changes})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._fields)})"
