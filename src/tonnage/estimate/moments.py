"""Moments of a run and the ledger of what is alive over several of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from tonnage.arch.tape import Storage
from tonnage.memory.passes import Span, level
from tonnage.record import Record
from tonnage.timeline import Instant, Level

if TYPE_CHECKING:
    from tonnage.memory.ahead import Ahead


class Held:
    """What is alive over several instants: ``count`` times ``unit`` under one name."""

    __slots__ = ("count", "name", "storages", "unit", "what")

    def __init__(self, name: str, what: str, unit: Level, storages: list[Storage]) -> None:
        self.name = name
        self.what = what
        self.unit = unit
        self.count = 0
        self.storages = storages


class Moment(Record):
    """An instant, and the span of the tape whose peak it is."""

    name: str
    level: Level
    span: Span | None = None

    @property
    def highest(self) -> int:
        """The most that tensors alone take within it, which may be elsewhere than where most is allocated. [byte]"""
        return self.level.requested + (0 if self.span is None else self.span.highest - self.span.peak.requested)


class Ledger:
    """What is alive beside the span of the moment at hand."""

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.now = Level()

    def clear(self) -> None:
        """Nothing is alive."""
        self.held.clear()
        self.now = Level()

    def take(self, key: str, name: str, what: str, unit: Level, storages: list[Storage] | None = None) -> None:
        """Something comes to life; ``name`` is the component, ``what`` says it in words."""
        if not unit.allocated:
            return
        held = self.held.get(key)
        if held is None or not held.count:
            held = self.held[key] = Held(name, what, unit, storages or [])
        held.count += 1
        self.now = self.now + unit

    def drop(self, key: str) -> None:
        """One of those dies, if there is one."""
        held = self.held.get(key)
        if held is not None and held.count:
            held.count -= 1
            self.now = self.now - held.unit

    def held_by(self, key: str) -> Level:
        """What is held under this key."""
        held = self.held.get(key)
        return Level() if held is None else held.unit.times(held.count)

    def drop_all(self, key: str) -> None:
        """All of those die."""
        while key in self.held and self.held[key].count:
            self.drop(key)

    def lessen(self, name: str, what: str, by: Level) -> None:
        """All that is alive of a component becomes one thing, by so much smaller."""
        left = Level() - by
        for key, held in self.held.items():
            if held.name == name:
                left = left + self.held_by(key)
                self.drop_all(key)
        self.take(what, name, what, left)

    def reading(self, what: str, reading: Ahead) -> Iterator[Moment]:
        """Another pass at its highest, above what is there."""
        reached = reading.highest
        for name, words, storages in reached.beside:
            self.take(f"{what} {words}", name, f"{what}: {words}", level(storages), storages)
        yield Moment(f"{what} forward", self.now + reached.span.peak, reached.span)
        for _, words, _ in reached.beside:
            self.drop(f"{what} {words}")

    def take_each(self, key: str, what: str, storages: list[Storage]) -> None:
        """Storages by their component."""
        for name in dict.fromkeys(s.category for s in storages):
            found = [s for s in storages if s.category == name]
            self.take(f"{key} {name}", name, what, level(found), found)


def instants(moments: Iterable[Moment]) -> tuple[Instant, ...]:
    """Moments by name, with what is allocated at them."""
    return tuple(Instant(m.name, m.level.allocated) for m in moments)


def largest(found: Sequence[Instant]) -> tuple[Instant, Instant | None]:
    """The largest instant, the first of equals, and the largest other one."""
    order = sorted(found, key=lambda i: -i.bytes)
    return order[0], order[1] if len(order) > 1 else None
