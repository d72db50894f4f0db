"""What a run held over time: storages with their lives, from a profile, a snapshot or a trace.

One shape for every file that tells of a run, so that reports and comparisons never ask where it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from tonnage.record import Record
from tonnage.timeline import Allocate, Event, Free

BEFORE: Final = "other:before the recording"
"""The name of what was there when a recording began, where nothing tells what it is."""
UNTOLD: Final = "other:unattributed"
"""The name of what no rule knows."""


class Life(NamedTuple):
    """One storage, or where the file tells no storages the part of a sum.

    Args:
        size: of it. [byte]
        name: of the component that it stands for.
        what: operation, call or kind that the file names.
        where: module, range or line of the program.
        stack: frames, the innermost first.
    """

    size: int
    name: str
    what: str = ""
    where: str = ""
    stack: tuple[str, ...] = ()


class Span(NamedTuple):
    """A named stretch of a run: events from ``start`` up to before ``stop``."""

    name: str
    start: int
    stop: int


class Group(NamedTuple):
    """Lives that are alike: how many, how much [byte], and one of them."""

    name: str
    storages: int
    bytes: int
    sample: Life


class History(Record):
    """A run.

    Args:
        kind: of the file, in words.
        file: its name.
        device: whose memory it is, as the file calls it.
        tier: that the sizes belong to: ``requested``, ``allocated`` or ``reserved``.
        lives: every storage.
        order: events: ``n`` is the birth of ``lives[n]``, ``~n`` its death.
        times: of the events, from the first; empty where the file has none. [ns]
        others: what other tiers held after each event, by tier. [byte]
        peaks: the largest of other tiers, where only that is told. [byte]
        spans: phases and ranges.
        begin: the first event that happened; those before it are births of what was already there.
        notes: what has to be said of the file.
    """

    kind: str
    file: str
    device: str
    tier: str
    lives: Sequence[Life]
    order: Sequence[int]
    times: Sequence[int] = ()
    others: Mapping[str, Sequence[int]] = {}
    peaks: Mapping[str, int] = {}
    spans: tuple[Span, ...] = ()
    begin: int = 0
    notes: tuple[str, ...] = ()

    def levels(self) -> list[int]:
        """Bytes alive after each event."""
        lives = self.lives
        return list(accumulate(lives[n].size if n >= 0 else -lives[~n].size for n in self.order))

    def peak(self) -> int:
        """The first event after which most is alive; -1 where there is none."""
        levels = self.levels()
        return levels.index(max(levels)) if levels else -1

    def alive(self, event: int) -> list[Life]:
        """What is alive after an event, in order of birth."""
        found: dict[int, None] = {}
        for n in self.order[: event + 1]:
            if n >= 0:
                found[n] = None
            else:
                found.pop(~n, None)
        return [self.lives[n] for n in found]

    def events(self) -> Iterator[Event]:
        """The one event stream of ``timeline``."""
        for n in self.order:
            if n < 0:
                yield Free(~n)
            else:
                life = self.lives[n]
                yield Allocate(n, life.size, op=life.what, module=life.where)

    def highest(self, tier: str) -> int | None:
        """The largest level of a tier; None where the file does not tell it. [byte]"""
        if tier == self.tier:
            return max(self.levels(), default=0)
        if tier in self.peaks:
            return self.peaks[tier]
        return max(self.others[tier], default=0) if tier in self.others else None


def grouped(lives: Iterable[Life], by: str) -> list[Group]:
    """Lives by a field, the largest sum first.

    >>> grouped([Life(5, "weights"), Life(9, "loss"), Life(7, "weights")], "name")[0][:3]
    ('weights', 2, 12)
    """
    found: dict[str, list[Life]] = {}
    for life in lives:
        found.setdefault(str(getattr(life, by)), []).append(life)
    groups = [
        Group(key, len(same), sum(x.size for x in same), max(same, key=lambda x: x.size)) for key, same in found.items()
    ]
    return sorted(groups, key=lambda g: -g.bytes)


class Book:
    """Writes lives and events down as a file tells them: by addresses, with frees of what nobody saw being born.

    >>> book = Book()
    >>> book.born(4096, Life(512, "weights"))
    >>> book.died(8192, 100), book.died(4096, 512)
    (False, True)
    >>> [x.size for x in book.lives], book.closed()
    ([512, 100], [1, 0, -2, -1])
    """

    def __init__(self) -> None:
        self.lives: list[Life] = []
        self.order: list[int] = []
        self.live: dict[object, int] = {}
        self.earlier: list[int] = []
        self.lost = 0

    def born(self, key: object, life: Life) -> None:
        """A storage at an address; one that is already there has died unseen."""
        if key in self.live:
            self.order.append(~self.live[key])
            self.lost += 1
        self.live[key] = len(self.lives)
        self.order.append(len(self.lives))
        self.lives.append(life)

    def died(self, key: object, size: int) -> bool:
        """It dies; one that nobody saw being born was there before. Whether its birth was seen."""
        n = self.live.pop(key, None)
        if n is None:
            self.order.append(~self.before(Life(size, BEFORE)))
            return False
        self.order.append(~n)
        return True

    def before(self, life: Life) -> int:
        """Something that was there before; its number."""
        self.earlier.append(len(self.lives))
        self.lives.append(life)
        return self.earlier[-1]

    def closed(self) -> list[int]:
        """Every event, the births of what was there before as the first."""
        return [*self.earlier, *self.order]


class Pile:
    """A sum without storages: what it grows by is a life, and the youngest goes first when it shrinks.

    Args:
        book: that the lives go to.
        life: what they are called.

    >>> book = Book()
    >>> pile = Pile(book, Life(0, "weights"))
    >>> for level in (5, 8, 6): pile.to(level)
    >>> [x.size for x in book.lives], book.order
    ([5, 3, 1], [0, 1, -2, 2])
    """

    def __init__(self, book: Book, life: Life) -> None:
        self.book, self.life = book, life
        self.parts: list[int] = []
        self.level = 0

    def to(self, level: int) -> None:
        """The sum becomes so much. [byte]"""
        change, self.level = level - self.level, level
        while change < 0 and self.parts:
            n = self.parts.pop()
            self.book.order.append(~n)
            change += self.book.lives[n].size
        if change > 0:
            self.parts.append(len(self.book.lives))
            self.book.order.append(len(self.book.lives))
            self.book.lives.append(self.life._replace(size=change))
