"""Expandable segments: address space that memory is mapped into page by page.

One stretch of address space for each pool and stream, of 9/8 of the device's memory. Held against worked cases only: no
recording of a real run with this setting was found.
"""

from __future__ import annotations

from bisect import insort
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from tonnage.allocator.blocks import ALLOCATED, FREE, PENDING, UNMAPPED, Area, Block, Pool, Shelf
from tonnage.allocator.device import UNLIMITED
from tonnage.units import MiB

if TYPE_CHECKING:
    from tonnage.allocator.caching import Allocator

_ADDRESS: Final = attrgetter("address")
_HELD: Final = (ALLOCATED, PENDING)
SMALL_PAGE: Final = 2 * MiB
"""Of the small pool (kSmallBuffer); the large one's is the large segment. [byte]"""


class Expandable:
    """What an allocator does otherwise with ``expandable_segments``.

    Args:
        allocator: whose blocks these are.
    """

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator

    def choice(self, free: list[tuple[int, int, Block]], i: int) -> int:
        """Which free block serves, from the smallest that does: a block before unmapped space counts as large as it
        could grow (get_free_block)."""
        while free[i][2].area is not None and i + 1 < len(free) and _reach(free[i + 1][2]) < _reach(free[i][2]):
            i += 1
        return i

    def allocate(self, shelf: Shelf, rounded: int) -> Block | None:
        """A free block, mapping memory where it can grow (try_allocate_expandable_block); None where that fails.

        What was mapped before it failed stays mapped.
        """
        block: Block | None = self._place(shelf, rounded)
        assert block is not None
        if block.state == UNMAPPED:
            block = self._map(block, min(block.size, rounded))
        while block is not None and block.size < rounded:
            after = block.next
            assert after is not None
            block = self._map(after, min(rounded - block.size, after.size))
        if block is not None:
            block.shelf.take(block)
        return block

    def _place(self, shelf: Shelf, rounded: int) -> Block:
        """The lowest address with enough free and unmapped space, else new address space (find_expandable_block)."""
        for block in shelf.unmapped:
            before = block.previous
            first = before if before is not None and before.state not in _HELD else block
            found, last = 0, first
            while found < rounded and last is not None and last.state not in _HELD:
                found += last.size
                last = last.next  # type: ignore[assignment]
            if found >= rounded:
                return first
        return self.open(shelf)

    def open(self, shelf: Shelf, address: int | None = None) -> Block:
        """New address space, all of it unmapped (ExpandableSegment).

        Args:
            shelf: whose blocks it will hold.
            address: where it begins; the device says where None.
        """
        a = self._allocator
        total = UNLIMITED if a.device.total is None else a.device.total
        page = SMALL_PAGE if shelf.pool.small else a.settings.large_segment
        size = -(-(total + total // 8) // page) * page
        area = Area(a.device.reserve(size) if address is None else address, size, page)
        block = a.heads[area.address] = Block(area.address, size, shelf, UNMAPPED, None, None, area)
        insort(shelf.unmapped, block, key=_ADDRESS)
        return block

    def _map(self, block: Block, size: int) -> Block | None:
        """Put memory behind the first ``size`` bytes of an unmapped block, in whole pages (map_block).

        Returns:
            The free block that they are part of now, or None where the device has no memory.
        """
        assert block.area is not None
        size = block.area.up(block.address + size) - block.address
        if not self._allocator.device.map(block.address, size):
            return None
        shelf = block.shelf
        shelf.unmapped.remove(block)
        if size < block.size:
            insort(shelf.unmapped, _cut(block, size, UNMAPPED), key=_ADDRESS)
        self._allocator.hold(size)
        return self._lay(block)

    def _lay(self, block: Block) -> Block:
        """Lay a mapped block on its shelf, merged with its free neighbours."""
        block.state = FREE
        before, after = block.previous, block.next
        if before is not None and before.state == FREE:
            before.shelf.take(before)
            _join(before)
            block = before
        if after is not None and after.state == FREE:
            after.shelf.take(after)
            _join(block)
        block.shelf.add(block)
        return block

    def unmap_free(self, pool: Pool) -> None:
        """Give back the whole pages of all free blocks, and address space that is no longer used (release_blocks)."""
        for shelf in pool.shelves.values():
            for _, _, block in list(shelf.free):
                if block.area is not None:
                    self._unmap(block)

    def _unmap(self, block: Block) -> None:
        """Give back the whole pages of one free block (unmap_block)."""
        area, shelf = block.area, block.shelf
        assert area is not None
        begin, end = area.up(block.address), area.down(block.address + block.size)
        if begin >= end:
            return
        block.shelf.take(block)
        if begin > block.address:
            front, block = block, _cut(block, begin - block.address, UNMAPPED)
            shelf.add(front)
        if end < block.address + block.size:
            shelf.add(_cut(block, end - block.address, FREE))
        self._allocator.reserved -= block.size
        self._allocator.device.unmap(block.address, block.size)
        block.state = UNMAPPED
        if block.next is not None and block.next.state == UNMAPPED:
            shelf.unmapped.remove(block.next)
            _join(block)
        if block.previous is not None and block.previous.state == UNMAPPED:
            block = block.previous
            shelf.unmapped.remove(block)
            _join(block)
        if block.split:
            insort(shelf.unmapped, block, key=_ADDRESS)
        else:
            del self._allocator.heads[block.address]


def _reach(block: Block) -> int:
    """Size that a free block has or can grow to. [byte]"""
    after = block.next
    return block.size + (after.size if after is not None and after.state == UNMAPPED else 0)


def _cut(block: Block, size: int, state: int) -> Block:
    """Shorten a block to ``size``; the rest is a block of that state."""
    rest = Block(block.address + size, block.size - size, block.shelf, state, block, block.next, block.area)
    if block.next is not None:
        block.next.previous = rest
    block.next = rest
    block.size = size
    return rest


def _join(block: Block) -> None:
    """Add the next block to a block."""
    after = block.next
    assert after is not None
    block.size += after.size
    block.next = after.next
    if after.next is not None:
        after.next.previous = block
