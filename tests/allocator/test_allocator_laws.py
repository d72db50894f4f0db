"""What holds for any stream of events, under any settings, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tonnage.allocator import Allocator, Device, OutOfMemory, parse
from tonnage.allocator.blocks import ALLOCATED, FREE, PENDING, UNMAPPED, Block
from tonnage.units import GiB, KiB, MiB

CONFS = st.sampled_from(
    [
        "", "expandable_segments:True", "max_split_size_mb:20", "max_split_size_mb:64,max_non_split_rounding_mb:64",
        "roundup_power2_divisions:8", "large_segment_size_mb:32", "per_process_memory_fraction:0.6",
        "garbage_collection_threshold:0.5,per_process_memory_fraction:0.9",
        "garbage_collection_threshold:0.2,per_process_memory_fraction:0.7,max_split_size_mb:30",
        "expandable_segments:True,per_process_memory_fraction:0.5,roundup_power2_divisions:2",
        "expandable_segments:True,garbage_collection_threshold:0.5,per_process_memory_fraction:0.9",
        "per_process_memory_fraction:0.5,throw_on_cudamalloc_oom:True",
    ]
)  # fmt: skip
SIZES = st.one_of(
    st.integers(1, 4 * KiB), st.integers(1, 2 * MiB), st.integers(MiB, 40 * MiB), st.integers(1, 300 * MiB)
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("malloc"), SIZES, st.integers(0, 2)),
        st.tuples(st.sampled_from(["free", "free", "free", "use"]), st.integers(0, 10**6), st.integers(0, 2)),
        st.tuples(st.sampled_from(["empty", "events"]), st.just(0), st.integers(0, 2)),
    ),
    max_size=60,
)


def play(a: Allocator, steps: list[tuple[str, int, int]]) -> Iterator[list[Block]]:
    """Do the steps; after each, the blocks that the program holds."""
    live: list[Block] = []
    for what, n, stream in steps:
        if what == "malloc":
            with suppress(OutOfMemory):
                live.append(a.malloc(n, stream))
        elif what == "empty":
            a.empty_cache()
        elif what == "events":
            a.process_events({stream})
        elif live:
            block = live[n % len(live)]
            if what == "use":
                a.record_stream(block, stream)
            else:
                live.remove(block)
                a.free(block)
        yield live


def check(a: Allocator, live: list[Block]) -> None:
    blocks = list(a.blocks())
    for before, after in pairwise(blocks):
        assert before.address + before.size <= after.address
        if before.next is after:
            assert after.previous is before
            assert before.address + before.size == after.address
            assert not (before.state == after.state and before.state in (FREE, UNMAPPED)), "not merged"
    held = {state: sum(b.size for b in blocks if b.state == state) for state in (FREE, ALLOCATED, PENDING)}
    assert held[ALLOCATED] == a.allocated == sum(b.size for b in live)
    assert held[PENDING] == a.pending
    assert sum(held.values()) == a.reserved == a.device.used
    assert {id(b) for b in live} == {id(b) for b in blocks if b.state == ALLOCATED}
    assert all(b.size >= b.requested and b.size % 512 == 0 for b in live)
    assert a.peak_allocated >= a.allocated
    assert a.peak_reserved >= a.reserved >= a.allocated + a.pending
    shelves = [shelf for pool in (a.small, a.large) for shelf in pool.shelves.values()]
    assert all(shelf.free == sorted(shelf.free, key=lambda row: row[:2]) for shelf in shelves)
    free = {(size, address, id(b)) for shelf in shelves for size, address, b in shelf.free}
    assert free == {(b.size, b.address, id(b)) for b in blocks if b.state == FREE}
    assert {id(b) for shelf in shelves for b in shelf.unmapped} == {id(b) for b in blocks if b.state == UNMAPPED}


@given(conf=CONFS, capacity=st.one_of(st.none(), st.integers(1, 600 * MiB)), steps=STEPS)
@settings(max_examples=300, deadline=None)
def test_blocks_never_overlap_and_sums_hold(conf: str, capacity: int | None, steps: list[tuple[str, int, int]]) -> None:
    a = Allocator(parse(conf), Device(capacity, total=GiB))
    for live in play(a, steps):
        check(a, live)
        if capacity is not None:
            assert a.reserved <= capacity
        if a.limit is not None and not a.settings.expandable:
            assert a.reserved <= a.limit


@given(conf=CONFS, steps=STEPS)
@settings(max_examples=100, deadline=None)
def test_freeing_everything_and_emptying_the_cache_leaves_nothing(conf: str, steps: list[tuple[str, int, int]]) -> None:
    a = Allocator(parse(conf), Device(total=GiB))
    held = list(play(a, steps))
    for block in list(held[-1]) if held else []:
        a.free(block)
    a.empty_cache()
    assert (a.requested, a.allocated, a.pending, a.reserved, a.heads, a.device.used) == (0, 0, 0, 0, {}, 0)


@given(steps=STEPS)
@settings(max_examples=100, deadline=None)
def test_a_device_that_is_large_enough_changes_nothing(steps: list[tuple[str, int, int]]) -> None:
    free, tight = Allocator(), Allocator()
    for _ in play(free, steps):
        pass
    tight.device.capacity = free.peak_reserved
    for _ in play(tight, steps):
        pass
    assert (tight.reserved, tight.peak_allocated, tight.retries) == (free.reserved, free.peak_allocated, 0)


def test_the_checks_can_fail() -> None:
    a = Allocator()
    block = a.malloc(5 * MiB)
    check(a, [block])
    block.size += 512
    with pytest.raises(AssertionError):
        check(a, [block])
