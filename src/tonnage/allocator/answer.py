"""What is told about a recording: how it replays, and what other settings or another device would have done."""

from __future__ import annotations

from time import perf_counter
from typing import Final, NamedTuple

from tonnage.allocator.asked import Asked, asked
from tonnage.allocator.caching import Allocator, OutOfMemory
from tonnage.allocator.device import NOWHERE, Device
from tonnage.allocator.recording import Recording
from tonnage.allocator.replay import Replay, Replayed
from tonnage.allocator.run import FAILS, Outcome, Player, run
from tonnage.allocator.settings import Settings, parse
from tonnage.allocator.start import lay, start
from tonnage.record import Record

UNCERTAIN: Final = "uncertain"


class Room(NamedTuple):
    """Memory that a device has for the allocator alone.

    Args:
        name: of the device, or the size as it was written.
        likely, low, high: of the memory. [byte]
        total: memory of the device, of which ``per_process_memory_fraction`` is a share. [byte]
    """

    name: str
    likely: int
    low: int
    high: int
    total: int


class OnDevice(Record):
    """What a device would have done.

    Args:
        room: that it has.
        outcome: with the likely room.
        low, high: verdicts at the ends of its range.
        entry: of the recording at which memory ran out; -1 before its first, None where it fits.
        retries: entries at which every cached segment was given back.
    """

    room: Room
    outcome: Outcome
    low: str
    high: str
    entry: int | None
    retries: tuple[int, ...]

    @property
    def verdict(self) -> str:
        """That of the likely room; ``uncertain`` where fitting depends on where in its range it lies."""
        ends = {self.low == FAILS, self.high == FAILS}
        return UNCERTAIN if len(ends) > 1 else self.outcome.verdict


class Answer(Record):
    """All of it.

    Args:
        recording: that was asked about.
        name: of it.
        settings: as they were written, of the recorded process or given.
        replayed: to its addresses; None under other settings.
        outcome: of what was asked for, under other settings; None under the recorded ones.
        on: what a device would have done; None where none is named.
        events: allocations and frees that were played.
        seconds: that playing them took.
    """

    recording: Recording
    name: str
    settings: str
    replayed: Replayed | None
    outcome: Outcome | None
    on: OnDevice | None
    events: int
    seconds: float


class WhatIf:
    """A recording's requests, elsewhere.

    Args:
        recording: whose requests they are.
        settings: of the allocator.
        laid: whether it begins with the segments that the recording began with; otherwise what was live then is
            allocated anew, in order of address.
    """

    def __init__(self, recording: Recording, settings: Settings, *, laid: bool) -> None:
        self.recording, self.settings = recording, settings
        self.asked: Asked = asked(recording)
        self.begin = start(recording) if laid else None

    def run(self, capacity: int | None = None, total: int | None = None) -> Outcome:
        """What a device of that capacity would have done; events count from the recording's first."""
        if self.begin is None:
            return run([*self.asked.earlier, *self.asked.events], self.settings, capacity, total=total)
        allocator = Allocator(self.settings, Device(capacity, total=total, last=NOWHERE))
        player = Player(allocator)
        for address, block in lay(self.recording, self.begin, allocator).items():
            player.take(self.asked.ids[address], block)
        allocator.device.used = allocator.reserved
        most = min(size for size in (capacity, allocator.limit, allocator.reserved) if size is not None)
        if allocator.reserved > most:
            # Such a device would have been short of memory before: what was cached then was given back.
            player.retries.append(-1)
            allocator.empty_cache()
            allocator.peak_reserved = allocator.reserved
        if allocator.reserved > most:
            player.fail(-1, OutOfMemory(0, 0, allocator.allocated, allocator.reserved))
            return player.outcome(0, 0)
        return player.play(self.asked.events)

    def entry(self, event: int) -> int:
        """The entry of the recording that an event stands for; -1 where it is older."""
        index = event if self.begin is not None else event - len(self.asked.earlier)
        return self.asked.entries[index] if index >= 0 else -1

    def on(self, room: Room) -> OnDevice:
        """What a device would have done."""
        found = {size: self.run(max(size, 0), room.total) for size in room[1:4]}
        outcome = found[room.likely]
        return OnDevice(
            room=room,
            outcome=outcome,
            low=found[room.low].verdict,
            high=found[room.high].verdict,
            entry=None if outcome.failed is None else self.entry(outcome.failed.event),
            retries=tuple(self.entry(event) for event in outcome.retries),
        )


def answer(recording: Recording, name: str, alloc_conf: str | None, room: Room | None) -> Answer:
    """Replay a recording.

    Args:
        recording: to replay.
        name: of it.
        alloc_conf: settings to replay under; where None the recorded ones, and every address is compared.
        room: memory of a device that it is tried on.
    """
    if alloc_conf is None:
        settings = parse(recording.settings, key="recording")
        replay = Replay(recording, settings)
        seconds = -perf_counter()
        replayed, outcome = replay.run(), None
        seconds += perf_counter()
        events = replayed.events
    else:
        settings, replayed = parse(alloc_conf), None
        seconds = -perf_counter()
        outcome = WhatIf(recording, settings, laid=False).run(None, None if room is None else room.total)
        seconds += perf_counter()
        events = outcome.events
    return Answer(
        recording=recording,
        name=name,
        settings=recording.settings if alloc_conf is None else alloc_conf,
        replayed=replayed,
        outcome=outcome,
        on=None if room is None else WhatIf(recording, settings, laid=alloc_conf is None).on(room),
        events=events,
        seconds=seconds,
    )
