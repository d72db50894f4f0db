"""Expandable segments by cases worked by hand from c10/cuda/CUDACachingAllocator.cpp; no recording was found."""

from __future__ import annotations

import pytest

from tonnage.allocator import Allocator, Device, OutOfMemory, parse
from tonnage.allocator.blocks import ALLOCATED, FREE, UNMAPPED
from tonnage.units import GiB, MiB


def made(capacity: int | None = None, conf: str = "") -> Allocator:
    return Allocator(parse(f"expandable_segments:True{conf}"), Device(capacity))


def layout(a: Allocator) -> list[tuple[int, int]]:
    """Sizes in MiB and states of mapped blocks, in order of address."""
    return [(block.size // MiB, block.state) for block in a.blocks() if block.state != UNMAPPED]


def test_memory_is_mapped_in_pages() -> None:
    a = made()
    a.malloc(1000)
    assert a.reserved == 2 * MiB
    a.malloc(3 * MiB)
    assert a.reserved == 22 * MiB
    a.malloc(30 * MiB)
    # 3 + 30 MiB lie in two pages of 20 MiB.
    assert a.reserved == 42 * MiB


def test_a_segment_grows_at_its_end() -> None:
    a = made()
    first = a.malloc(15 * MiB)
    second = a.malloc(15 * MiB)
    assert second.address == first.address + 15 * MiB
    assert layout(a) == [(15, ALLOCATED), (15, ALLOCATED), (10, FREE)]


def test_remainders_of_512_bytes_are_split_off_large_blocks() -> None:
    a = made()
    a.malloc(20 * MiB - 512)
    assert (a.allocated, a.reserved) == (20 * MiB - 512, 20 * MiB)


def test_large_segment_is_the_page() -> None:
    a = made(conf=",large_segment_size_mb:64")
    a.malloc(3 * MiB)
    assert a.reserved == 64 * MiB


def test_address_space_is_nine_eighths_of_the_device() -> None:
    a = made(capacity=GiB)
    a.malloc(3 * MiB)
    # 1,152 MiB in pages of 20 MiB
    assert sum(block.size for block in a.blocks()) == 58 * 20 * MiB


def test_the_block_that_could_grow_counts_as_large_as_it_could() -> None:
    a = made()
    first, _, last = a.malloc(20 * MiB), a.malloc(20 * MiB), a.malloc(10 * MiB)
    a.free(first)
    a.free(last)
    # Free are 20 MiB at the front and 20 MiB at the end, before unmapped space: the front one is the better fit.
    assert a.malloc(10 * MiB).address == first.address


def test_a_smaller_free_block_is_passed_over_for_one_that_cannot_grow() -> None:
    a = made()
    first, _, last = a.malloc(40 * MiB), a.malloc(40 * MiB), a.malloc(20 * MiB)
    a.free(last)
    a.free(first)
    # The last 20 MiB are the smallest that serve, but reach into unmapped space; the 40 MiB at the front do not.
    assert a.malloc(10 * MiB).address == first.address


def test_streams_and_pools_have_address_space_of_their_own() -> None:
    a = made(capacity=GiB)
    a.malloc(3 * MiB, 1)
    a.malloc(3 * MiB, 2)
    a.malloc(3, 1)
    assert len(a.heads) == 3
    assert a.reserved == 42 * MiB


def test_empty_cache_unmaps_whole_pages_of_free_blocks() -> None:
    a = made()
    first, second = a.malloc(50 * MiB), a.malloc(30 * MiB)
    assert a.reserved == 80 * MiB
    a.free(first)
    a.empty_cache()
    # Of the first 50 MiB two pages are wholly free; 10 MiB share a page with the second block.
    assert a.reserved == 40 * MiB
    assert layout(a) == [(10, FREE), (30, ALLOCATED)]
    a.free(second)
    a.empty_cache()
    assert (a.reserved, a.heads) == (0, {})


def test_the_lowest_gap_is_mapped_again() -> None:
    a = made()
    first, _ = a.malloc(60 * MiB), a.malloc(20 * MiB)
    a.free(first)
    a.empty_cache()
    again = a.malloc(40 * MiB)
    assert (again.address, a.reserved) == (first.address, 60 * MiB)


def test_a_gap_that_is_too_small_is_passed_over() -> None:
    a = made()
    first, second = a.malloc(20 * MiB), a.malloc(20 * MiB)
    a.free(first)
    a.empty_cache()
    later = a.malloc(40 * MiB)
    assert later.address == second.address + 20 * MiB


def test_a_free_tail_and_unmapped_pages_make_one_block() -> None:
    a = made()
    _, tail = a.malloc(15 * MiB), a.malloc(5 * MiB)
    a.free(tail)
    block = a.malloc(20 * MiB)
    assert (block.address, a.reserved) == (tail.address, 40 * MiB)


def test_a_split_segment_can_grow() -> None:
    """Without expandable segments the 70 free MiB are of no use: they are too few, and cannot be given back."""

    def play(a: Allocator) -> None:
        a.free(a.malloc(80 * MiB))
        a.malloc(10 * MiB)
        a.malloc(80 * MiB)

    a = made(capacity=100 * MiB)
    play(a)
    assert (a.reserved, a.retries) == (100 * MiB, 0)
    b = Allocator(device=Device(100 * MiB))
    with pytest.raises(OutOfMemory):
        play(b)
    assert b.inactive_split == 70 * MiB


def test_what_was_mapped_before_memory_ran_out_stays_a_free_block() -> None:
    a = made(capacity=60 * MiB)
    a.malloc(15 * MiB)
    with pytest.raises(OutOfMemory):
        a.malloc(70 * MiB)
    # Giving back leaves the page that is in use.
    assert (a.reserved, layout(a)) == (20 * MiB, [(15, ALLOCATED), (5, FREE)])
    assert a.device.used == a.reserved


def test_waiting_blocks_are_not_merged_or_unmapped() -> None:
    a = made()
    block = a.malloc(20 * MiB)
    a.record_stream(block, 3)
    a.free(block)
    assert a.malloc(20 * MiB).address == block.address + 20 * MiB
    a.empty_cache()
    assert a.reserved == 20 * MiB
