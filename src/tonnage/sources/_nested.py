"""What was running at a moment: ranges of one thread that hold it, asked in order of time."""

from __future__ import annotations

from typing import Final, NamedTuple

DEEPEST: Final = 500
"""Ranges that hold one moment; what lies deeper is passed over, so that a strange file cannot make it slow."""


class Range(NamedTuple):
    """Something that ran, in the file's unit of time."""

    start: float
    end: float
    name: str
    kind: str = ""


class Nested:
    """Ranges of one thread.

    Args:
        ranges: in any order.

    >>> found = Nested([Range(0, 9, "outer"), Range(2, 4, "inner"), Range(5, 6, "next")])
    >>> [[r.name for r in found.at(t)] for t in (1, 3, 4.5, 5, 10)]
    [['outer'], ['inner', 'outer'], ['outer'], ['next', 'outer'], []]
    """

    def __init__(self, ranges: list[Range]) -> None:
        self.ranges = sorted(ranges, key=lambda r: (r.start, -r.end))
        self.next = 0
        self.open: list[Range] = []

    def at(self, time: float) -> list[Range]:
        """Those that hold a moment, the innermost first; moments must not go back."""
        while self.next < len(self.ranges) and self.ranges[self.next].start <= time:
            found = self.ranges[self.next]
            self.next += 1
            while self.open and self.open[-1].end <= found.start:
                self.open.pop()
            if len(self.open) < DEEPEST:
                self.open.append(found)
        self.open = [r for r in self.open if r.end >= time]
        return self.open[::-1]
