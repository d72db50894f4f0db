"""What a recorded program asked for, without the addresses it got: to be played under other settings or elsewhere."""

from __future__ import annotations

from typing import NamedTuple

from tonnage.allocator.caching import OTHER
from tonnage.allocator.events import Action, Allocate, Complete, EmptyCache, Free, RecordStream
from tonnage.allocator.recording import GIVEN_BACK, Recording, completed
from tonnage.allocator.start import start


class Asked(NamedTuple):
    """Requests of a recording.

    Args:
        earlier: events that stand for what was live when it began, in order of address.
        events: what it then did.
        entries: for each of ``events`` the entry of the recording that it stands for.
        ids: of what was live when it began, by address.
    """

    earlier: list[Action]
    events: list[Action]
    entries: list[int]
    ids: dict[int, int]


def asked(recording: Recording) -> Asked:
    """Allocations and frees of a recording as events.

    The order in which live blocks were allocated before it began, and what was cached then, are not told. Segments that
    were given back are taken for an emptied cache, as a request that found no memory gives back the same.

    Raises:
        InputError: entries contradict each other.
    """
    begin = start(recording)
    earlier: list[Action] = []
    first = {address: number for number, address in enumerate(sorted(begin.held))}
    for address, number in first.items():
        held = begin.held[address]
        earlier.append(Allocate(number, held.requested, stream=held.stream))
        if held.pending:
            earlier += (RecordStream(number, OTHER), Free(number))
    events: list[Action] = []
    told: list[int] = []
    ids = dict(first)
    last = ("", 0)
    for index, (action, address, size, stream) in enumerate(recording.entries):
        if action == "alloc":
            ids[address] = len(first) + index
            events.append(Allocate(ids[address], size, stream=stream))
        elif action == "free_requested":
            if not completed(recording.entries, index):
                events.append(RecordStream(ids[address], OTHER))
            events.append(Free(ids[address]))
        elif action == "free_completed" and last != ("free_requested", address):
            events.append(Complete(ids[address]))
        elif action in GIVEN_BACK and last[0] not in GIVEN_BACK:
            events.append(EmptyCache())
        last = (action, address)
        told += [index] * (len(events) - len(told))
    return Asked(earlier, events, told, first)
