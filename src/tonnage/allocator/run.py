"""Events through an allocator: what it holds over time, and what a device of some size would have done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tonnage.allocator.blocks import PENDING, Block
from tonnage.allocator.caching import Allocator, OutOfMemory
from tonnage.allocator.device import Device
from tonnage.allocator.events import Action, Allocate, Complete, EmptyCache, Free, RecordStream
from tonnage.allocator.settings import Settings
from tonnage.errors import InputError
from tonnage.record import Record

FITS: Final = "fits"
RETRIES: Final = "fits after a retry"
FAILS: Final = "out of memory"


class Failure(Record):
    """Where memory ran out.

    Args:
        event: its index.
        size: of the block that was needed. [byte]
        segment: that was asked of the device for it. [byte]
        allocated: by the program. [byte]
        reserved: from the device. [byte]
        split: free in segments that hold live blocks too, so that it could not be given back. [byte]
        largest: free block. [byte]
    """

    event: int
    size: int
    segment: int
    allocated: int
    reserved: int
    split: int
    largest: int


class Outcome(Record):
    """What became of a stream of events.

    Args:
        events: that were played: all, or those before memory ran out.
        allocations: among them.
        retries: indices of the events at which every cached segment was given back because memory was short.
        failed: where memory ran out, or None.
        capacity: that the device had; None is no limit. [byte]
        requested, allocated, reserved: at the end. [byte]
        peak_requested, peak_allocated, peak_reserved: the largest. [byte]
        inactive_split: free at the end in segments that hold live blocks too. [byte]
    """

    events: int
    allocations: int
    retries: tuple[int, ...]
    failed: Failure | None
    capacity: int | None
    requested: int
    allocated: int
    reserved: int
    peak_requested: int
    peak_allocated: int
    peak_reserved: int
    inactive_split: int

    @property
    def verdict(self) -> str:
        """``fits``, ``fits after a retry`` or ``out of memory``."""
        return FAILS if self.failed is not None else RETRIES if self.retries else FITS

    @property
    def fragmentation(self) -> int:
        """How much more the peak of reserved is than that of allocated. [byte]"""
        return self.peak_reserved - self.peak_allocated


def run(
    events: Iterable[Action],
    settings: Settings | None = None,
    capacity: int | None = None,
    *,
    total: int | None = None,
    samples: list[tuple[int, int, int]] | None = None,
) -> Outcome:
    """Play events until they end or memory runs out.

    Args:
        events: allocations and frees, with what else the allocator is told. An empty storage takes no memory.
        settings: of the allocator; torch's defaults where None.
        capacity: that the process may have of the device; None is no limit. [byte]
        total: memory of the device, of which ``memory_fraction`` is a share; the capacity where None. [byte]
        samples: gets requested, allocated and reserved bytes after each event.

    Raises:
        InputError: an id is allocated twice or freed unallocated, or a share of memory is set and none is given.

    >>> run([Allocate(0, 3 * 2**20), Free(0), Allocate(1, 2**20)]).reserved
    23068672
    """
    return Player(Allocator(settings, Device(capacity, total=total))).play(events, samples)


class Player:
    """Plays events to an allocator.

    Args:
        allocator: that they go to.

    ``live`` holds the blocks by id, ``waiting`` those that were freed and wait for a stream.
    """

    def __init__(self, allocator: Allocator) -> None:
        self.allocator = allocator
        self.live: dict[int, Block | None] = {}
        self.waiting: dict[int, Block] = {}
        self.retries: list[int] = []
        self.failed: Failure | None = None

    def take(self, id: int, block: Block) -> None:
        """A block that the allocator holds from before."""
        if block.state == PENDING:
            self.waiting[id] = block
        else:
            self.live[id] = block

    def play(self, events: Iterable[Action], samples: list[tuple[int, int, int]] | None = None) -> Outcome:
        """Play all of them, or up to the one for which there is no memory."""
        a, live = self.allocator, self.live
        malloc, free = a.malloc, a.free
        allocations = count = retries = 0
        for index, event in enumerate(events):
            if isinstance(event, Allocate):
                if event.id in live:
                    raise _wrong(index, f"storage {event.id} is allocated twice")
                try:
                    live[event.id] = malloc(event.size, event.stream) if event.size else None
                except OutOfMemory as short:
                    self.fail(index, short)
                allocations += self.failed is None
                if a.retries != retries:
                    retries = a.retries
                    self.retries.append(index)
                    self.waiting.clear()
                if self.failed is not None:
                    break
            elif isinstance(event, Free):
                try:
                    block = live.pop(event.id)
                except KeyError:
                    raise _wrong(index, f"storage {event.id} is freed and not allocated") from None
                if block is not None:
                    free(block)
                    if block.state == PENDING:
                        self.waiting[event.id] = block
            else:
                self.tell(index, event)
            count += 1
            if samples is not None:
                samples.append((a.requested, a.allocated, a.reserved))
        return self.outcome(count, allocations)

    def tell(self, index: int, event: RecordStream | Complete | EmptyCache) -> None:
        """What is neither an allocation nor a free."""
        if isinstance(event, EmptyCache):
            self.allocator.empty_cache()
            self.waiting.clear()
        elif isinstance(event, RecordStream):
            if event.id not in self.live:
                raise _wrong(index, f"storage {event.id} is used and not allocated")
            block = self.live[event.id]
            if block is not None:
                self.allocator.record_stream(block, event.stream)
        else:
            # It may have been completed already, when memory was short.
            waits = self.waiting.pop(event.id, None)
            if waits is not None:
                self.allocator.complete(waits)

    def fail(self, index: int, short: OutOfMemory) -> None:
        """Remember where memory ran out, and what was held."""
        self.failed = Failure(
            event=index,
            size=short.size,
            segment=short.segment,
            allocated=short.allocated,
            reserved=short.reserved,
            split=self.allocator.inactive_split,
            largest=self.allocator.largest_free,
        )

    def outcome(self, events: int, allocations: int) -> Outcome:
        """The figures."""
        a = self.allocator
        return Outcome(
            events=events,
            allocations=allocations,
            retries=tuple(self.retries),
            failed=self.failed,
            capacity=a.device.capacity,
            requested=a.requested,
            allocated=a.allocated,
            reserved=a.reserved,
            peak_requested=a.peak_requested,
            peak_allocated=a.peak_allocated,
            peak_reserved=a.peak_reserved,
            inactive_split=a.inactive_split,
        )


def _wrong(index: int, what: str) -> InputError:
    return InputError(f"event {index:,}: {what}", key="events", value=index)
