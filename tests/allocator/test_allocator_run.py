"""Events through an allocator: figures over time, and what a device of some size would have done."""

from __future__ import annotations

import pytest

from tonnage.allocator import Settings, parse, run
from tonnage.allocator.events import Action, Allocate, Complete, EmptyCache, Free, RecordStream
from tonnage.errors import InputError
from tonnage.units import MiB

STEP: list[Action] = [
    Allocate(0, 30 * MiB),
    Allocate(1, 11 * MiB),
    Free(0),
    Allocate(2, 40 * MiB),
    Free(1),
    Allocate(3, 1000),
    Free(2),
]


def test_figures_over_time() -> None:
    samples: list[tuple[int, int, int]] = []
    found = run(STEP, samples=samples)
    assert [(r // MiB, a // MiB, s // MiB) for r, a, s in samples] == [
        (30, 30, 30), (41, 42, 42), (11, 12, 42), (51, 52, 82), (40, 40, 82), (40, 40, 84), (0, 0, 84),
    ]  # fmt: skip
    assert (found.events, found.allocations) == (7, 4)
    assert (found.peak_requested, found.peak_allocated, found.peak_reserved) == (51 * MiB, 52 * MiB, 84 * MiB)
    assert (found.requested, found.allocated, found.reserved) == (1000, 1024, 84 * MiB)
    assert found.fragmentation == 32 * MiB
    assert found.inactive_split == 2 * MiB - 1024


@pytest.mark.parametrize(
    ("capacity", "verdict", "retries", "failed"),
    [
        (None, "fits", (), None),
        (84, "fits", (), None),
        (83, "fits after a retry", (5,), None),
        (81, "fits after a retry", (3,), None),
        (54, "fits after a retry", (3,), None),
        (53, "fits after a retry", (3, 5), None),
        (52, "fits after a retry", (3, 5), None),
        (51, "out of memory", (3,), 3),
        (41, "out of memory", (1,), 1),
        (29, "out of memory", (0,), 0),
    ],
)
def test_what_a_device_would_have_done(
    capacity: int | None, verdict: str, retries: tuple[int, ...], failed: int | None
) -> None:
    found = run(STEP, capacity=None if capacity is None else capacity * MiB)
    assert (found.verdict, found.retries) == (verdict, retries)
    assert (None if found.failed is None else found.failed.event) == failed
    if capacity is not None:
        assert found.peak_reserved <= capacity * MiB


def test_where_memory_ran_out_is_told() -> None:
    found = run([Allocate(0, 15 * MiB), Allocate(1, 3 * MiB), Free(0), Allocate(2, 32 * MiB)], capacity=40 * MiB)
    failed = found.failed
    assert failed is not None
    assert (failed.event, failed.size, failed.segment) == (3, 32 * MiB, 32 * MiB)
    assert (failed.allocated, failed.reserved, failed.split, failed.largest) == (
        3 * MiB, 20 * MiB, 17 * MiB, 17 * MiB,
    )  # fmt: skip
    assert (found.events, found.allocations) == (3, 2)


def test_empty_storages_take_nothing() -> None:
    assert run([Allocate(0, 0), RecordStream(0, 1), Free(0)]).peak_reserved == 0


def test_streams() -> None:
    events: list[Action] = [
        Allocate(0, 5 * MiB),
        RecordStream(0, 1),
        Free(0),
        Allocate(1, 5 * MiB),
        Complete(0),
        Allocate(2, 5 * MiB),
    ]
    assert run(events).peak_allocated == 10 * MiB
    assert run([*events[:4], *events[5:]]).allocated == 10 * MiB
    # When memory is short, streams are waited for: what completes later was complete.
    short = run(
        [Allocate(0, 20 * MiB), RecordStream(0, 1), Free(0), Allocate(1, 20 * MiB), Complete(0)], None, 20 * MiB
    )
    assert (short.verdict, short.allocated) == ("fits after a retry", 20 * MiB)


def test_emptying_the_cache() -> None:
    assert run([Allocate(0, 20 * MiB), Free(0), EmptyCache(), Allocate(1, 30 * MiB)]).peak_reserved == 30 * MiB


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([Allocate(0, 1), Allocate(0, 1)], "event 1: storage 0 is allocated twice"),
        ([Free(7)], "event 0: storage 7 is freed and not allocated"),
        ([RecordStream(7, 1)], "event 0: storage 7 is used and not allocated"),
    ],
)
def test_events_that_contradict_each_other(events: list[Action], told: str) -> None:
    with pytest.raises(InputError, match=told):
        run(events)


def test_a_share_of_memory_needs_the_memory() -> None:
    with pytest.raises(InputError, match="share"):
        run(STEP, Settings(memory_fraction=0.5))
    assert run(STEP, parse("per_process_memory_fraction:0.5"), total=168 * MiB).verdict == "fits"
    assert run(STEP, parse("per_process_memory_fraction:0.5"), total=100 * MiB).verdict == "out of memory"


def test_events_show_themselves() -> None:
    assert repr(STEP[:3]) == "[Allocate(0, 31457280), Allocate(1, 11534336), Free(0)]"
