"""The allocator: which block a request gets, when a segment is asked for, and what is given back.

Names of functions of c10/cuda/CUDACachingAllocator.cpp (pytorch/pytorch, 2.10 line) stand in the docstrings.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Final

from tonnage.allocator.blocks import ALLOCATED, FREE, PENDING, Block, Pool, Shelf
from tonnage.allocator.device import Device
from tonnage.allocator.settings import Settings
from tonnage.errors import InputError
from tonnage.units import MiB

UNIT: Final = 512
"""Every size is a multiple of it (kMinBlockSize). [byte]"""
SMALL: Final = MiB
"""Largest request of the small pool (kSmallSize), and largest remainder that the large one keeps in a block. [byte]"""
SMALL_SEGMENT: Final = 2 * MiB
"""kSmallBuffer"""
OWN_SEGMENT: Final = 10 * MiB
"""Requests from here on get a segment of their own (kMinLargeAlloc)."""
ROUND_SEGMENT: Final = 2 * MiB
"""Of which such a segment is a multiple (kRoundLarge)."""
NEVER: Final = 2**63
OTHER: Final = -1
"""A stream that is not the block's own, where a recording does not tell which."""


class OutOfMemory(Exception):  # noqa: N818  torch's name is OutOfMemoryError; this one is a result, not an error
    """No memory for a request, after everything that could be given back was given back.

    Args:
        size: that was asked for. [byte]
        segment: that would have been allocated for it. [byte]
        allocated: by the program. [byte]
        reserved: from the device. [byte]
    """

    def __init__(self, size: int, segment: int, allocated: int, reserved: int) -> None:
        super().__init__(f"{size:,} bytes asked for, {allocated:,} allocated, {reserved:,} reserved")
        self.size, self.segment, self.allocated, self.reserved = size, segment, allocated, reserved


class Allocator:
    """One device's caching allocator.

    Args:
        settings: as the environment variable states them.
        device: the memory below.

    Raises:
        InputError: a share of the device is set, and the device has no total.

    Current figures are attributes, in bytes: ``requested`` (what the program asked for and still uses on some stream),
    ``allocated`` (blocks that it holds), ``pending`` (blocks that it freed and a stream may use), ``reserved``
    (segments). ``peak_requested``, ``peak_allocated`` and ``peak_reserved`` are the largest so far. ``retries`` counts
    how often all cached blocks were given back because memory was short. ``heads`` are the first blocks of all segments
    by address, ``limit`` what ``memory_fraction`` allows.

    >>> a = Allocator()
    >>> block = a.malloc(1000)
    >>> a.allocated, a.reserved
    (1024, 2097152)
    >>> a.free(block)
    >>> a.empty_cache()
    >>> a.reserved
    0
    """

    def __init__(self, settings: Settings | None = None, device: Device | None = None) -> None:
        self.settings = settings = Settings() if settings is None else settings
        self.device = device = Device() if device is None else device
        self.requested = self.allocated = self.pending = self.reserved = 0
        self.peak_requested = self.peak_allocated = self.peak_reserved = 0
        self.retries = 0
        self.heads: dict[int, Block] = {}
        self.small, self.large = Pool(small=True), Pool(small=False)
        self._small, self._large = self.small.shelves, self.large.shelves
        self._plain = max(settings.divisions) <= 1
        self._max_split = NEVER if settings.max_split is None else settings.max_split
        # Expandable segments are split whatever the size (should_split).
        self._unsplit = NEVER if settings.expandable else self._max_split
        self.limit = self._allowed()
        self._collects = self.limit is not None and settings.collect_above > 0.0
        self._special = settings.expandable or settings.max_split is not None or self._collects
        self._uses: dict[Block, set[int]] = {}
        self._waiting: dict[Block, set[int]] = {}
        self._expandable = None
        if settings.expandable:
            from tonnage.allocator.expandable import Expandable

            self._expandable = Expandable(self)

    def _allowed(self) -> int | None:
        """Bytes that ``memory_fraction`` allows (setMemoryFraction)."""
        share = self.settings.memory_fraction
        if share >= 1.0:
            return None
        if self.device.total is None:
            raise InputError(
                "per_process_memory_fraction is a share of the device's memory", key="alloc_conf", value=share,
                hint="name the memory with --device-memory or --gpu",
            )  # fmt: skip
        return int(share * self.device.total)

    def malloc(self, size: int, stream: int = 0) -> Block:
        """A block for ``size`` bytes on a stream (malloc, alloc_found_block).

        Args:
            size: at least 1: torch gives nothing out for empty tensors. [byte]
            stream: whose work uses it.

        Raises:
            OutOfMemory: the device has no memory for it. The allocator can be used on.
        """
        if size < 1:
            raise ValueError(f"{size} bytes cannot be allocated")
        rounded = (size + 511) & -512 if self._plain else self.rounded(size)
        shelf = (self._small if rounded <= SMALL else self._large).get(stream) or self.shelf(rounded <= SMALL, stream)
        free = shelf.free
        if self._special:
            block = self._search(shelf, rounded) or self._grow(shelf, rounded)
        else:
            i = bisect_left(free, (rounded,))
            block = free.pop(i)[2] if i < len(free) else self._grow(shelf, rounded)
        rest = block.size - rounded
        if rest >= shelf.least and rounded < self._unsplit:
            after = block.next
            remainder = Block(block.address + rounded, rest, shelf, FREE, block, after, block.area)
            if after is not None:
                after.previous = remainder
            block.next = remainder
            block.size = rounded
            if self._collects:
                remainder.since = shelf.pool.searches
            insort(free, (rest, remainder.address, remainder))
        block.state = ALLOCATED
        block.requested = size
        requested = self.requested = self.requested + size
        if requested > self.peak_requested:
            self.peak_requested = requested
        allocated = self.allocated = self.allocated + block.size
        if allocated > self.peak_allocated:
            self.peak_allocated = allocated
        return block

    def free(self, block: Block) -> None:
        """Give a block back; one that other streams use waits for them (free).

        Raises:
            ValueError: it is not allocated.
        """
        if block.state != ALLOCATED:
            raise ValueError(f"{block} is not allocated")
        self.allocated -= block.size
        if self._uses and block in self._uses:
            block.state = PENDING
            self.pending += block.size
            self._waiting[block] = self._uses.pop(block)
            return
        self._cache(block)

    def record_stream(self, block: Block, stream: int) -> None:
        """Tell that another stream uses a block, which then is not used again before that stream is done."""
        if block.state != ALLOCATED:
            raise ValueError(f"{block} is not allocated")
        if stream != block.shelf.stream:
            self._uses.setdefault(block, set()).add(stream)

    def process_events(self, streams: Iterator[int] | set[int] | None = None) -> None:
        """Streams (all, where None) did their work: blocks that waited for them alone are free."""
        done = None if streams is None else set(streams)
        for block, waits in list(self._waiting.items()):
            waits -= waits if done is None else done
            if not waits:
                self.complete(block)

    def complete(self, block: Block) -> None:
        """A freed block is no longer used by any stream."""
        if block.state != PENDING:
            raise ValueError(f"{block} waits for no stream")
        del self._waiting[block]
        self.pending -= block.size
        self._cache(block)

    def empty_cache(self) -> None:
        """Give every segment back that holds no live block (emptyCache, release_cached_blocks)."""
        self.process_events()
        for pool in (self.large, self.small):
            for shelf in pool.shelves.values():
                for _, _, block in list(shelf.free):
                    if block.area is None and not block.split:
                        self.release(block)
            if self._expandable is not None:
                self._expandable.unmap_free(pool)

    def blocks(self) -> Iterator[Block]:
        """Every block, and address space without memory, segment by segment in order of address."""
        for address in sorted(self.heads):
            block: Block | None = self.heads[address]
            while block is not None:
                yield block
                block = block.next

    @property
    def inactive_split(self) -> int:
        """Free bytes in segments that hold live blocks too: cached, and not to be given back. [byte]"""
        return sum(b.size for b in self.blocks() if b.state == FREE and b.split and b.area is None)

    @property
    def largest_free(self) -> int:
        """The largest free block. [byte]"""
        return max((shelf.free[-1][0] for p in (self.small, self.large) for shelf in p.shelves.values() if shelf.free),
                   default=0)  # fmt: skip

    def rounded(self, size: int) -> int:
        """The size of the block that a request needs (round_size). [byte]

        >>> Allocator(Settings(divisions=(4,) * 16)).rounded(5_000)
        5120
        """
        if size < UNIT:
            return UNIT
        power = size.bit_length() - 1
        divisions = self.settings.divisions[min(max(power - 20, 0), 15)]
        if divisions <= 1 or size <= UNIT * divisions:
            return (size + UNIT - 1) // UNIT * UNIT
        # Both are powers of two, and a division is at least one unit here.
        step = (1 << power) // divisions
        return (size + step - 1) // step * step

    def shelf(self, small: bool, stream: int) -> Shelf:
        """Where the free blocks of a pool and a stream lie."""
        pool = self.small if small else self.large
        found = pool.shelves.get(stream)
        if found is None:
            least = UNIT if small or self.settings.expandable else SMALL + 1
            found = pool.shelves[stream] = Shelf(pool, stream, least)
        return found

    def segment_size(self, rounded: int) -> int:
        """The segment that is allocated where no free block serves (get_allocation_size). [byte]"""
        if rounded <= SMALL:
            return SMALL_SEGMENT
        if rounded < OWN_SEGMENT:
            return self.settings.large_segment
        return (rounded + ROUND_SEGMENT - 1) // ROUND_SEGMENT * ROUND_SEGMENT

    def _cache(self, block: Block) -> None:
        """Merge a block with its free neighbours and lay it on its shelf (free_block, try_merge_blocks)."""
        self.requested -= block.requested
        free = block.shelf.free
        block.state = FREE
        before, after = block.previous, block.next
        # The first of merged blocks stays, so that a segment's head is always the same.
        if before is not None and before.state == FREE:
            del free[bisect_left(free, (before.size, before.address))]
            before.size += block.size
            block = before
        if after is not None and after.state == FREE:
            del free[bisect_left(free, (after.size, after.address))]
            block.size += after.size
            after = after.next
        if block.next is not after:
            block.next = after
            if after is not None:
                after.previous = block
        if self._collects:
            block.since = block.shelf.pool.searches
        insort(free, (block.size, block.address, block))

    def _search(self, shelf: Shelf, rounded: int) -> Block | None:
        """The smallest free block that serves, under the settings that restrict the choice (get_free_block)."""
        if self._collects:
            shelf.pool.searches += 1
        free = shelf.free
        i = bisect_left(free, (rounded,))
        if i == len(free):
            return None
        if self._expandable is not None:
            i = self._expandable.choice(free, i)
        size = free[i][0]
        if rounded < self._max_split <= size:
            return None
        if rounded >= self._max_split and size >= rounded + self.settings.rounding:
            return None
        return free.pop(i)[2]

    def _grow(self, shelf: Shelf, rounded: int) -> Block:
        """A block of a new segment, giving cached ones back where memory is short (malloc)."""
        size = self.segment_size(rounded)
        if self.settings.reject and self.limit is not None and self.reserved + size > self.limit:
            raise OutOfMemory(rounded, size, self.allocated, self.reserved)
        if self._collects:
            self._collect()
        block = self._allocate(shelf, rounded, size)
        if block is None and self._release_available(shelf, rounded):
            block = self._allocate(shelf, rounded, size)
        if block is None:
            self.retries += 1
            self.empty_cache()
            block = self._allocate(shelf, rounded, size)
        if block is None:
            raise OutOfMemory(rounded, size, self.allocated, self.reserved)
        return block

    def _allocate(self, shelf: Shelf, rounded: int, size: int) -> Block | None:
        """cudaMalloc of a segment, within what the process may have (alloc_block)."""
        if self.limit is not None and self.reserved + size > self.limit:
            return None
        if self._expandable is not None:
            return self._expandable.allocate(shelf, rounded)
        address = self.device.allocate(size)
        if address is None:
            return None
        self.hold(size)
        block = self.heads[address] = Block(address, size, shelf, FREE, None, None, None)
        return block

    def adopt(self, block: Block, *, pending: bool = False) -> None:
        """Count a live block that was laid into a segment from outside; ``pending`` where a stream may still use it."""
        self.requested += block.requested
        self.peak_requested = max(self.peak_requested, self.requested)
        if pending:
            block.state = PENDING
            self.pending += block.size
            self._waiting[block] = {OTHER}
            return
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)

    def hold(self, size: int) -> None:
        """Count memory that the device gave."""
        self.reserved += size
        if self.reserved > self.peak_reserved:
            self.peak_reserved = self.reserved

    def release(self, block: Block) -> None:
        """cudaFree of a segment that is one free block (release_block)."""
        block.shelf.take(block)
        del self.heads[block.address]
        self.reserved -= block.size
        self.device.release(block.address, block.size)

    def _release_available(self, shelf: Shelf, rounded: int) -> bool:
        """Give back blocks that are too large to be split: one that is large enough, else the largest ones until they
        are (release_available_cached_blocks)."""
        if self.settings.max_split is None:
            return False
        needed, free = max(rounded, self._max_split), shelf.free
        i = bisect_left(free, (needed,))
        if i < len(free) and free[i][2].area is None:
            self.release(free[i][2])
            return True
        released = 0
        for size, _, block in reversed(free[:i]):
            if released >= needed or size < self._max_split:
                break
            if block.area is None:
                released += size
                self.release(block)
        return released >= needed

    def _collect(self) -> None:
        """Give back old large segments while more than the threshold is held (garbage_collect_cached_blocks)."""
        assert self.limit is not None
        target = self.reserved - int(self.settings.collect_above * self.limit)
        if target <= 0:
            return
        searches = self.large.searches
        whole = [b for s in self.large.shelves.values() for _, _, b in s.free if not b.split]
        age, count, reclaimed, freed = sum(searches - b.since for b in whole), len(whole), 0, True
        while reclaimed < target and freed and count:
            threshold, freed = age / count, False
            for block in [b for b in whole if b.state == FREE and b.area is None]:
                if searches - block.since >= threshold:
                    freed = True
                    reclaimed += block.size
                    age -= searches - block.since
                    count -= 1
                    whole.remove(block)
                    self.release(block)
