"""A recording of the caching allocator through the model of it: every address, every segment."""

from __future__ import annotations

from collections import deque

from tonnage.allocator.blocks import ALLOCATED, FREE
from tonnage.allocator.caching import OTHER, Allocator
from tonnage.allocator.device import NOWHERE, Device
from tonnage.allocator.recording import GIVEN_BACK, Recording, completed
from tonnage.allocator.settings import Settings, parse
from tonnage.allocator.start import lay, start
from tonnage.record import Record


class Replayed(Record):
    """How a replay went.

    Args:
        allocations: of the recording.
        events: allocations and frees of the recording; a free that was completed later counts once.
        address_mismatches: allocations that landed elsewhere than recorded.
        segment_mismatches: segments that were allocated or freed by one of the two only, or with another size.
        first_mismatch: entry of the recording at which the first of either was seen, or None.
        guessed: blocks that were live when it began and whose size it does not tell.
        reserved, allocated: at the end. [byte]
        peak_reserved, peak_allocated, peak_requested: largest since the recording began. [byte]
    """

    allocations: int
    events: int
    address_mismatches: int
    segment_mismatches: int
    first_mismatch: int | None
    guessed: int
    reserved: int
    allocated: int
    peak_reserved: int
    peak_allocated: int
    peak_requested: int


class Recorded(Device):
    """Gives out the addresses of a recording, and counts what it does not have."""

    def __init__(self) -> None:
        super().__init__(last=NOWHERE)
        self.due: deque[tuple[int, int]] = deque()
        self.mismatches = 0
        self.released: set[tuple[int, int]] = set()

    def allocate(self, size: int) -> int | None:
        """The segment that the recording has next, where it is of this size."""
        if self.due:
            address, recorded = self.due.popleft()
            if recorded == size:
                return address
        self.mismatches += 1
        return self._space(size)

    def release(self, address: int, size: int) -> None:
        """Remember what was given back."""
        self.released.add((address, size))

    def reserve(self, size: int) -> int:
        """Address space begins where the recording maps memory next."""
        return self.due[0][0] if self.due else self._space(size)

    def map(self, address: int, size: int) -> bool:
        """The memory that the recording maps next."""
        if not self.due or self.due.popleft() != (address, size):
            self.mismatches += 1
        return True

    def unmap(self, address: int, size: int) -> None:
        """Remember what was given back."""
        self.released.add((address, size))


class Replay:
    """One replay.

    Args:
        recording: to follow.
        settings: of the recorded process.
    """

    def __init__(self, recording: Recording, settings: Settings) -> None:
        self.recording = recording
        self.device = Recorded()
        # What a process may have never decides here: the recording tells when memory was short.
        self.allocator = Allocator(settings.but(memory_fraction=1.0), self.device)
        self.partly = settings.max_split is not None or settings.collect_above > 0.0
        begin = start(recording)
        self.guessed = sum(not h.exact for h in begin.held.values())
        self.live = lay(recording, begin, self.allocator)
        self.first: int | None = None
        self.addresses = 0

    def run(self) -> Replayed:
        """Follow the recording to its end."""
        live, device, entries = self.live, self.device, self.recording.entries
        malloc, free, due = self.allocator.malloc, self.allocator.free, device.due
        allocations = frees = seen = 0
        given_back: list[tuple[int, int]] = []
        for index, (action, address, size, stream) in enumerate(entries):
            if given_back and action not in GIVEN_BACK:
                seen = self.give_back(given_back, index)
            if action == "alloc":
                allocations += 1
                block = live[address] = malloc(size, stream)
                if block.address != address or due or device.mismatches != seen:
                    seen = self.differs(index, block.address != address)
            elif action == "free_requested":
                frees += 1
                if not completed(entries, index):
                    self.allocator.record_stream(live[address], OTHER)
                    free(live[address])
            elif action == "free_completed":
                block = live.pop(address)
                if block.state == ALLOCATED:
                    free(block)
                else:
                    self.allocator.complete(block)
            elif action in GIVEN_BACK:
                given_back.append((address, size))
            else:
                due.append((address, size))
        if given_back or due:
            self.give_back(given_back, len(entries))
        return self.outcome(allocations, allocations + frees)

    def differs(self, index: int, moved: bool) -> int:
        """Count what an entry has otherwise; returns the mismatches of segments so far."""
        self.addresses += moved
        self.device.mismatches += len(self.device.due)
        self.device.due.clear()
        if self.first is None:
            self.first = index
        return self.device.mismatches

    def give_back(self, recorded: list[tuple[int, int]], index: int) -> int:
        """Segments that the recording gave back before an entry; returns the mismatches of segments so far.

        A program that empties the cache and a request that finds no memory give back the same, unless settings say
        that only some segments are.
        """
        a, device = self.allocator, self.device
        before = device.mismatches
        device.released.clear()
        if self.partly:
            for address, size in recorded:
                head = a.heads.get(address)
                if head is not None and head.state == FREE and not head.split and head.size == size:
                    a.release(head)
        else:
            a.empty_cache()
        device.mismatches += len(device.released.symmetric_difference(recorded))
        recorded.clear()
        if device.mismatches != before:
            return self.differs(index, False)
        return device.mismatches

    def outcome(self, allocations: int, events: int) -> Replayed:
        """The figures."""
        a = self.allocator
        return Replayed(
            allocations=allocations,
            events=events,
            address_mismatches=self.addresses,
            segment_mismatches=self.device.mismatches + len(self.device.due),
            first_mismatch=self.first,
            guessed=self.guessed,
            reserved=a.reserved,
            allocated=a.allocated,
            peak_reserved=a.peak_reserved,
            peak_allocated=a.peak_allocated,
            peak_requested=a.peak_requested,
        )


def replay(recording: Recording, settings: Settings | None = None) -> Replayed:
    """Replay a recording to its addresses.

    Args:
        recording: to follow.
        settings: of the recorded process; those that it states, where None.

    Raises:
        InputError: it contradicts itself.
        UnsupportedError: it begins with expandable segments in use, or with another allocator.
    """
    return Replay(recording, parse(recording.settings) if settings is None else settings).run()
