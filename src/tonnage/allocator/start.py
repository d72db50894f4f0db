"""What was held when a recording began: walked back from what was held when it ended."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from tonnage.allocator.blocks import ALLOCATED, FREE, Block
from tonnage.allocator.caching import SMALL, SMALL_SEGMENT, Allocator
from tonnage.allocator.recording import LIVE, WAITING, Recording
from tonnage.errors import InputError, UnsupportedError


class Held(NamedTuple):
    """A block that was live when the recording began.

    Args:
        size: of the block; what was asked for where it is not ``exact``. [byte]
        requested: what was asked for. [byte]
        stream: of the block.
        exact: whether the size is that of the block.
        pending: whether it was freed already, and another stream may have used it.
    """

    size: int
    requested: int
    stream: int
    exact: bool
    pending: bool


class Root(NamedTuple):
    """A segment that was there when the recording began."""

    size: int
    stream: int
    small: bool


class Start(NamedTuple):
    """What was held when a recording began.

    Args:
        segments: by address.
        held: live blocks by address.
        mapped: memory of expandable segments. [byte]
    """

    segments: dict[int, Root]
    held: dict[int, Held]
    mapped: int


def _contradicts(recording: Recording, index: int, what: str) -> InputError:
    return InputError(
        f"entry {index:,} of the recording contradicts the others: {what}", key="recording", file=recording.file
    )


def start(recording: Recording) -> Start:
    """Walk back from the end of a recording to its beginning.

    Raises:
        InputError: entries contradict each other or the segments.
    """
    segments = {s.address: Root(s.size, s.stream, s.small) for s in recording.segments if not s.expandable}
    mapped = sum(s.size for s in recording.segments if s.expandable)
    held = {
        p.address: Held(p.size, p.requested, s.stream, True, p.state != LIVE)
        for s in recording.segments
        for p in s.parts
        if p.state == LIVE or p.state in WAITING
    }
    for index in range(len(recording.entries) - 1, -1, -1):
        action, address, size, stream = recording.entries[index]
        if action == "alloc":
            block = held.pop(address, None)
            if block is None:
                raise _contradicts(recording, index, f"the block at {address} is allocated and not there later")
            if block.pending:
                raise _contradicts(recording, index, f"the free of the block at {address} is never requested")
        elif action == "free_completed":
            if address in held:
                raise _contradicts(recording, index, f"the block at {address} is freed and there later")
            held[address] = Held(size, size, stream, False, True)
        elif action == "free_requested":
            if address not in held or not held[address].pending:
                raise _contradicts(recording, index, f"the free of the block at {address} is never completed")
            held[address] = held[address]._replace(pending=False)
        elif action == "segment_alloc":
            if address not in segments or segments.pop(address).size != size:
                raise _contradicts(recording, index, f"the segment at {address} is allocated and not there later")
        elif action == "segment_free":
            if address in segments:
                raise _contradicts(recording, index, f"the segment at {address} is freed and there later")
            segments[address] = Root(size, stream, size <= SMALL_SEGMENT)
        else:
            mapped += -size if action == "segment_map" else size
    return Start(segments, held, mapped)


def lay(recording: Recording, begin: Start, allocator: Allocator) -> dict[int, Block]:
    """Put the segments and blocks of the beginning into an empty allocator.

    The size of a block that is freed later is not told, only what was asked for: it is larger by a remainder of up to
    1 MiB that was not split off, which is found where the next block or the end of the segment is that near, or where
    the first later block behind it begins. What stays unknown is taken as none.

    Returns:
        The live blocks by address.

    Raises:
        InputError: blocks overlap or lie in no segment.
        UnsupportedError: expandable segments are in use, of which the end of the recording tells too little.
    """
    if begin.mapped:
        raise UnsupportedError(
            "the recording begins with expandable segments in use, whose addresses cannot be followed",
            key="recording", file=recording.file,
            hint="record from the start of the process, or give --alloc-conf to replay what was asked for",
        )  # fmt: skip
    behind = _first_behind(recording, begin, allocator)
    by_segment: dict[int, list[int]] = {address: [] for address in begin.segments}
    roots = sorted(begin.segments)
    for address in sorted(begin.held):
        i = bisect_right(roots, address) - 1
        if i < 0 or address >= roots[i] + begin.segments[roots[i]].size:
            raise _overlap(recording, address)
        by_segment[roots[i]].append(address)
    live: dict[int, Block] = {}
    for address, inside in by_segment.items():
        root = begin.segments[address]
        row = _Row(allocator, address, root)
        for at, end in zip(inside, [*inside[1:], address + root.size], strict=False):
            size = _size(begin.held[at], root, end - at, behind.get(at), allocator)
            if at < row.end or size > end - at:
                raise _overlap(recording, at)
            live[at] = row.block(at, size, begin.held[at])
        row.close()
    return live


def _overlap(recording: Recording, address: int) -> InputError:
    return InputError(
        f"the blocks of the recording contradict its segments at {address}", key="recording", file=recording.file
    )


def _size(held: Held, root: Root, room: int, behind: int | None, allocator: Allocator) -> int:
    """Size of a block that has so much room. [byte]"""
    if held.exact:
        return held.size
    size = allocator.rounded(held.requested)
    if root.small or size >= room:
        return size
    # Blocks of the large pool are larger than 1 MiB, free ones too: what is left of less is part of the block.
    if room - size <= SMALL:
        return room
    return size if behind is None else behind


def _first_behind(recording: Recording, begin: Start, allocator: Allocator) -> dict[int, int]:
    """Sizes of blocks, by address, after which a block was allocated while they were live.

    Free space behind a block is one free block, and a block is taken from the front of one: so the first one that is
    allocated within 1 MiB behind a live block begins where that block ends.
    """
    unknown = {
        address: allocator.rounded(held.requested)
        for address, held in begin.held.items()
        if not held.exact and allocator.rounded(held.requested) > SMALL
    }
    addresses = sorted(unknown)
    found: dict[int, int] = {}
    for action, address, _, _ in recording.entries:
        if action == "free_requested":
            unknown.pop(address, None)
        elif action == "alloc" and unknown:
            i = bisect_right(addresses, address - 1) - 1
            before = addresses[i] if i >= 0 else address
            if before in unknown and 0 <= address - before - unknown[before] <= SMALL:
                found[before] = address - before
                del unknown[before]
    return found


class _Row:
    """Blocks of one segment, laid one after the other.

    Args:
        allocator: that gets them.
        address: of the segment.
        root: the segment.
    """

    def __init__(self, allocator: Allocator, address: int, root: Root) -> None:
        self.allocator, self.address, self.root = allocator, address, root
        self.shelf = allocator.shelf(root.small, root.stream)
        self.end = address
        self.last: Block | None = None

    def block(self, at: int, size: int, held: Held) -> Block:
        """A live block, after free space up to it."""
        if at > self.end:
            self._add(at - self.end, FREE)
        block = self._add(size, ALLOCATED)
        block.requested = held.requested
        self.allocator.adopt(block, pending=held.pending)
        return block

    def close(self) -> None:
        """Free space up to the end of the segment."""
        left = self.address + self.root.size - self.end
        if left:
            self._add(left, FREE)
        self.allocator.hold(self.root.size)

    def _add(self, size: int, state: int) -> Block:
        block = Block(self.end, size, self.shelf, state, self.last, None, None)
        if self.last is None:
            self.allocator.heads[self.address] = block
        else:
            self.last.next = block
        if state == FREE:
            self.shelf.add(block)
        self.last = block
        self.end += size
        return block
