"""Blocks of a segment, and the free ones of a stream in order of size."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Final

FREE: Final = 0
ALLOCATED: Final = 1
PENDING: Final = 2
"""Freed by the program, while a stream that was told with ``record_stream`` may still use it."""
UNMAPPED: Final = 3
"""Address space of an expandable segment without memory behind it."""


class Block:
    """A part of a segment.

    Args:
        address: where it begins.
        size: of it. [byte]
        shelf: where it lies when it is free.
        state: ``FREE``, ``ALLOCATED``, ``PENDING`` or ``UNMAPPED``.
        previous: block of the same segment before it.
        next: block of the same segment after it.
        area: the expandable segment that it is part of, or None.

    Besides, ``requested`` is what the program asked for last [byte], and ``since`` the search count of its pool when it
    became free.
    """

    __slots__ = ("address", "area", "next", "previous", "requested", "shelf", "since", "size", "state")

    def __init__(
        self,
        address: int,
        size: int,
        shelf: Shelf,
        state: int,
        previous: Block | None,
        next: Block | None,
        area: Area | None,
    ) -> None:
        self.address = address
        self.size = size
        self.shelf = shelf
        self.state = state
        self.previous = previous
        self.next = next
        self.area = area
        self.requested = 0
        self.since = 0

    def __repr__(self) -> str:
        return f"Block(address={self.address:#x}, size={self.size}, state={self.state})"

    @property
    def split(self) -> bool:
        """Whether it is not its whole segment."""
        return self.previous is not None or self.next is not None


class Pool:
    """Small or large blocks, of all streams.

    Args:
        small: for requests of at most 1 MiB.

    ``searches`` counts the requests that looked for a free block, as the age of cached blocks is told in them.
    """

    __slots__ = ("searches", "shelves", "small")

    def __init__(self, *, small: bool) -> None:
        self.small = small
        self.searches = 0
        self.shelves: dict[int, Shelf] = {}


class Shelf:
    """Blocks of one pool and one stream.

    Args:
        pool: of which it is a part.
        stream: whose blocks lie there.
        least: smallest remainder that is split off a block. [byte]

    ``free`` holds ``(size, address, block)`` in order; ``unmapped`` the parts without memory of expandable segments.
    """

    __slots__ = ("free", "least", "pool", "stream", "unmapped")

    def __init__(self, pool: Pool, stream: int, least: int) -> None:
        self.pool = pool
        self.stream = stream
        self.least = least
        self.free: list[tuple[int, int, Block]] = []
        self.unmapped: list[Block] = []

    def add(self, block: Block) -> None:
        """Lay a free block there."""
        block.since = self.pool.searches
        insort(self.free, (block.size, block.address, block))

    def take(self, block: Block) -> None:
        """Take a free block away."""
        del self.free[bisect_left(self.free, (block.size, block.address))]


class Area:
    """Address space of an expandable segment.

    Args:
        address: where it begins.
        size: of it. [byte]
        page: unit in which memory is mapped into it. [byte]
    """

    __slots__ = ("address", "page", "size")

    def __init__(self, address: int, size: int, page: int) -> None:
        self.address = address
        self.size = size
        self.page = page

    def down(self, address: int) -> int:
        """The page boundary at or below an address."""
        return address - (address - self.address) % self.page

    def up(self, address: int) -> int:
        """The page boundary at or above an address."""
        return address + (self.address - address) % self.page
