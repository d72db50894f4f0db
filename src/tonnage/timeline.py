"""Instants: named moments with what is alive at them; a run's instants in order are its timeline."""

from __future__ import annotations

from dataclasses import dataclass


class Level:
    """Bytes alive at a moment, in two tiers.

    Args:
        requested: live tensors, unrounded. [byte]
        allocated: blocks of the caching allocator that hold them and what kernels took for themselves. [byte]
    """

    __slots__ = ("allocated", "requested")

    def __init__(self, requested: int = 0, allocated: int = 0) -> None:
        self.requested = requested
        self.allocated = allocated

    def __repr__(self) -> str:
        return f"Level(requested={self.requested}, allocated={self.allocated})"

    def __add__(self, other: Level) -> Level:
        return Level(self.requested + other.requested, self.allocated + other.allocated)

    def __sub__(self, other: Level) -> Level:
        return Level(self.requested - other.requested, self.allocated - other.allocated)

    def times(self, n: int) -> Level:
        """``n`` of it."""
        return Level(self.requested * n, self.allocated * n)


@dataclass(frozen=True, slots=True, eq=False)
class Instant:
    """A named moment and what is alive at it. [byte]"""

    name: str
    bytes: int
