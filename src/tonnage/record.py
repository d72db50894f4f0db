"""Frozen records: what the program passes on, and what it is asked and answers.

A dataclass costs about a millisecond to create, and an answer needs some thirty kinds of block, layer and recipe: a
third of its whole time. A record takes its fields from the class body as a dataclass does, but makes no code. Who asks
for a dataclass (``dataclasses.fields``, ``replace``, ``asdict``, pydantic) finds one: its description is made then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, dataclass_transform


class _Described:
    """``__dataclass_fields__`` of a record, made by the standard library when it is first asked for."""

    def __get__(self, record: object, kind: type[Record]) -> dict[str, Any]:
        from dataclasses import field, make_dataclass

        def default(name: str) -> Any:
            if name in kind._needed:
                return field()
            value = getattr(kind, name)
            return field(default_factory=lambda: value) if isinstance(value, Mapping) else field(default=value)

        members = [(name, said, default(name)) for name, said in kind._kinds.items()]
        return dict(vars(make_dataclass(kind.__name__, members, kw_only=True))["__dataclass_fields__"])


@dataclass_transform(frozen_default=True, kw_only_default=False)
class Record:
    """Base of a frozen record: annotated names are its fields, values in the class body their defaults.

    >>> class Point(Record):
    ...     x: int
    ...     y: int = 0
    >>> Point(1), Point(1).but(y=2)
    (Point(x=1, y=0), Point(x=1, y=2))
    """

    __dataclass_fields__ = _Described()
    _kinds: Mapping[str, str] = {}
    _fields: tuple[str, ...] = ()
    _needed: frozenset[str] = frozenset()

    def __init_subclass__(cls) -> None:
        said = cls.__dict__.get("__annotations__", {})
        own = {name: kind for name, kind in said.items() if not name.startswith("_") and "ClassVar" not in str(kind)}
        cls._kinds = {**cls._kinds, **own}
        cls._fields = tuple(cls._kinds)
        cls._needed = frozenset([name for name in cls._fields if not hasattr(cls, name)])

    def __init__(self, *args: Any, **given: Any) -> None:
        held = self.__dict__
        held.update(zip(self._fields, args, strict=False))
        held.update(given)
        if len(held) != len(args) + len(given) or not self._needed <= held.keys() <= self._kinds.keys():
            missing, unknown = sorted(self._needed - held.keys()), sorted(held.keys() - self._kinds.keys())
            raise TypeError(f"{type(self).__name__}: missing {missing}, unknown {unknown}, or given twice")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def but(self, **changes: Any) -> Self:
        """The same record with other values for some fields."""
        return type(self)(**{**self.__dict__, **changes})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in stated(self).items())})"


def fields(record: Record | type[Record]) -> tuple[str, ...]:
    """Names of a record's fields, in order."""
    return record._fields


def stated(record: Record) -> dict[str, Any]:
    """Every field with its value."""
    return {name: getattr(record, name) for name in record._fields}


class Value(Record):
    """A record that equals another of its kind with the same fields."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and stated(self) == stated(other)

    def __hash__(self) -> int:
        # Mappings have no hash; two values that differ in them alone are told apart by ``==``.
        return hash(tuple([value for value in stated(self).values() if not isinstance(value, Mapping)]))
