"""Each rule of the caching allocator by a case worked by hand from c10/cuda/CUDACachingAllocator.cpp."""

from __future__ import annotations

import pytest

from tonnage.allocator import Allocator, Device, OutOfMemory, parse
from tonnage.allocator.blocks import ALLOCATED, FREE, Block
from tonnage.errors import InputError
from tonnage.units import GiB, MiB


def made(conf: str = "", capacity: int | None = None, total: int | None = None) -> Allocator:
    return Allocator(parse(conf), Device(capacity, total=total))


def layout(a: Allocator) -> list[tuple[int, int]]:
    """Sizes and states of all blocks in order of address."""
    return [(block.size, block.state) for block in a.blocks()]


# round_size


@pytest.mark.parametrize(
    ("size", "rounded"),
    [(1, 512), (512, 512), (513, 1024), (1024, 1024), (MiB - 1, MiB), (MiB + 1, MiB + 512), (10**9, 1_000_000_000)],
)
def test_sizes_are_multiples_of_512(size: int, rounded: int) -> None:
    a = made()
    assert a.rounded(size) == rounded == -(-size // 512) * 512
    assert a.malloc(size).requested == size


@pytest.mark.parametrize(
    ("conf", "size", "rounded"),
    [
        # Between 1,024 and 2,048 four steps are 256 B: less than 512 B times four is rounded to 512 B instead.
        ("roundup_power2_divisions:4", 1_200, 1_536),
        ("roundup_power2_divisions:4", 2_048, 2_048),
        ("roundup_power2_divisions:4", 2_049, 2_560),
        ("roundup_power2_divisions:4", 5 * MiB, 5 * MiB),
        ("roundup_power2_divisions:4", 5 * MiB + 1, 6 * MiB),
        ("roundup_power2_divisions:4", 7 * MiB + 1, 8 * MiB),
        ("roundup_power2_divisions:1", 5 * MiB + 1, 5 * MiB + 512),
        # Below 256 MiB as at 256 MiB: 1; from 256 to 512 MiB 1; to 1 GiB 2; above 4.
        ("roundup_power2_divisions:[256:1,512:2,>:4]", 100 * MiB + 1, 100 * MiB + 512),
        ("roundup_power2_divisions:[256:1,512:2,>:4]", 300 * MiB + 1, 300 * MiB + 512),
        ("roundup_power2_divisions:[256:1,512:2,>:4]", 600 * MiB + 1, 768 * MiB),
        ("roundup_power2_divisions:[256:1,512:2,>:4]", 1100 * MiB, 1280 * MiB),
        # The last of the 16 intervals holds for all that is larger.
        ("roundup_power2_divisions:[65536:2]", 200 * GiB, 256 * GiB),
    ],
)
def test_sizes_are_rounded_to_divisions_of_powers_of_two(conf: str, size: int, rounded: int) -> None:
    assert made(conf).rounded(size) == rounded


# get_pool, get_allocation_size


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (1, 2 * MiB),
        (MiB, 2 * MiB),
        (MiB + 1, 20 * MiB),
        (10 * MiB - 512, 20 * MiB),
        (10 * MiB, 10 * MiB),
        (10 * MiB + 1, 12 * MiB),
        (12 * MiB, 12 * MiB),
        (GiB + 1, GiB + 2 * MiB),
    ],
)
def test_segments_by_size(size: int, segment: int) -> None:
    a = made()
    a.malloc(size)
    assert a.reserved == segment


def test_large_segment_is_a_setting() -> None:
    a = made("large_segment_size_mb:64")
    a.malloc(2 * MiB)
    assert a.reserved == 64 * MiB


def test_pools_do_not_share() -> None:
    a = made()
    a.free(a.malloc(2 * MiB))
    a.malloc(1000)
    assert a.reserved == 22 * MiB


def test_streams_do_not_share() -> None:
    a = made()
    a.free(a.malloc(1000, 1))
    a.malloc(1000, 2)
    assert a.reserved == 4 * MiB
    a.malloc(1000, 1)
    assert a.reserved == 4 * MiB


# get_free_block


def test_the_smallest_block_that_serves_is_taken() -> None:
    a = made()
    blocks = [a.malloc(n * MiB) for n in (30, 24, 26)]
    for block in blocks:
        a.free(block)
    assert a.malloc(25 * MiB).address == blocks[2].address
    assert a.malloc(25 * MiB).address == blocks[0].address


def test_of_equal_blocks_the_lowest_address_is_taken() -> None:
    a = made()
    blocks = [a.malloc(24 * MiB) for _ in range(3)]
    for block in reversed(blocks):
        a.free(block)
    # Segments are given out downward.
    assert [a.malloc(24 * MiB).address for _ in range(3)] == [block.address for block in reversed(blocks)]


# should_split, alloc_found_block


def test_small_remainders_of_512_bytes_are_split_off() -> None:
    a = made()
    a.malloc(2 * MiB // 2)
    a.malloc(MiB - 512)
    assert layout(a) == [(MiB, ALLOCATED), (MiB - 512, ALLOCATED), (512, FREE)]
    a.malloc(1)
    assert a.reserved == 2 * MiB
    assert a.allocated == 2 * MiB


def test_large_remainders_of_1_mib_stay_in_the_block() -> None:
    a = made()
    a.malloc(11 * MiB)
    assert (a.requested, a.allocated, a.reserved) == (11 * MiB, 12 * MiB, 12 * MiB)
    assert layout(a) == [(12 * MiB, ALLOCATED)]


def test_large_remainders_above_1_mib_are_split_off() -> None:
    a = made()
    a.malloc(11 * MiB - 512)
    assert layout(a) == [(11 * MiB - 512, ALLOCATED), (MiB + 512, FREE)]


# free_block, try_merge_blocks


def test_neighbours_merge() -> None:
    a = made()
    first, second, third = (a.malloc(5 * MiB) for _ in range(3))
    assert a.reserved == 20 * MiB
    a.free(first)
    a.free(third)
    assert layout(a) == [(5 * MiB, FREE), (5 * MiB, ALLOCATED), (10 * MiB, FREE)]
    a.free(second)
    assert layout(a) == [(20 * MiB, FREE)]
    assert a.malloc(20 * MiB - 512).address == first.address
    assert a.reserved == 20 * MiB


def test_segments_do_not_merge() -> None:
    a = made()
    blocks = [a.malloc(20 * MiB) for _ in range(2)]
    for block in blocks:
        a.free(block)
    a.malloc(40 * MiB)
    assert a.reserved == 80 * MiB


def test_inactive_split_is_free_memory_that_cannot_be_given_back() -> None:
    a = made()
    first, second = a.malloc(5 * MiB), a.malloc(5 * MiB)
    a.free(first)
    assert a.inactive_split == 15 * MiB
    assert a.largest_free == 10 * MiB
    a.empty_cache()
    assert a.reserved == 20 * MiB
    a.free(second)
    assert a.inactive_split == 0
    a.empty_cache()
    assert a.reserved == 0


def test_a_block_is_freed_once() -> None:
    a = made()
    block = a.malloc(1)
    a.free(block)
    with pytest.raises(ValueError, match="not allocated"):
        a.free(block)
    with pytest.raises(ValueError, match="cannot be allocated"):
        a.malloc(0)


# recordStream, process_events


def test_a_block_of_another_stream_waits_for_it() -> None:
    a = made()
    block = a.malloc(5 * MiB, 0)
    a.record_stream(block, 7)
    a.free(block)
    assert (a.allocated, a.pending, a.requested) == (0, 5 * MiB, 5 * MiB)
    other = a.malloc(5 * MiB, 0)
    assert other.address == block.address + 5 * MiB
    a.process_events({3})
    assert a.pending == 5 * MiB
    a.process_events({7})
    assert (a.pending, a.requested) == (0, 5 * MiB)
    assert a.malloc(5 * MiB, 0).address == block.address


def test_the_own_stream_needs_no_wait() -> None:
    a = made()
    block = a.malloc(5 * MiB, 4)
    a.record_stream(block, 4)
    a.free(block)
    assert a.pending == 0


def test_a_block_waits_for_every_stream() -> None:
    a = made()
    block = a.malloc(1, 0)
    a.record_stream(block, 1)
    a.record_stream(block, 2)
    a.free(block)
    a.process_events({1})
    assert a.pending == 512
    a.process_events()
    assert a.pending == 0
    with pytest.raises(ValueError, match="waits for no stream"):
        a.complete(block)


def test_short_of_memory_waits_for_streams() -> None:
    a = made(capacity=20 * MiB)
    block = a.malloc(20 * MiB, 0)
    a.record_stream(block, 1)
    a.free(block)
    a.malloc(20 * MiB, 1)
    assert (a.retries, a.reserved) == (1, 20 * MiB)


# malloc: cudaMalloc fails


def test_cached_segments_are_given_back_when_memory_is_short() -> None:
    a = made(capacity=50 * MiB)
    kept, cached = a.malloc(20 * MiB), a.malloc(24 * MiB)
    a.free(cached)
    a.malloc(30 * MiB)
    assert (a.retries, a.reserved, a.peak_reserved) == (1, 50 * MiB, 50 * MiB)
    assert kept.state == ALLOCATED


def test_a_segment_in_use_is_not_given_back() -> None:
    a = made(capacity=40 * MiB)
    first, second = a.malloc(9 * MiB), a.malloc(9 * MiB)
    a.free(first)
    with pytest.raises(OutOfMemory) as found:
        a.malloc(30 * MiB)
    short = found.value
    assert (short.size, short.segment, short.allocated, short.reserved) == (30 * MiB, 30 * MiB, 9 * MiB, 20 * MiB)
    assert a.retries == 1
    a.free(second)
    assert a.malloc(30 * MiB).size == 30 * MiB
    assert (a.retries, a.reserved) == (2, 30 * MiB)


def test_what_fits_exactly_fits() -> None:
    a = made(capacity=20 * MiB)
    a.malloc(20 * MiB)
    with pytest.raises(OutOfMemory):
        a.malloc(1)


# max_split_size_mb, max_non_split_rounding_mb


def test_blocks_above_max_split_are_neither_split_nor_lent_to_smaller_requests() -> None:
    a = made("max_split_size_mb:100")
    a.free(a.malloc(200 * MiB))
    a.malloc(50 * MiB)
    assert a.reserved == 250 * MiB
    block = a.malloc(181 * MiB)
    assert (block.size, a.reserved) == (200 * MiB, 250 * MiB)


def test_blocks_above_max_split_are_lent_within_the_rounding() -> None:
    a = made("max_split_size_mb:100")
    a.free(a.malloc(200 * MiB))
    # 200 MiB >= 180 MiB + 20 MiB
    a.malloc(180 * MiB)
    assert a.reserved == 380 * MiB
    b = made("max_split_size_mb:100,max_non_split_rounding_mb:64")
    b.free(b.malloc(200 * MiB))
    assert b.malloc(137 * MiB).size == 200 * MiB


def test_with_max_split_one_large_enough_block_is_given_back_first() -> None:
    a = made("max_split_size_mb:100", capacity=600 * MiB)
    kept, freed = a.malloc(120 * MiB), a.malloc(400 * MiB)
    a.free(kept)
    a.free(freed)
    # Neither serves 300 MiB: one is too small, one too large. The smallest that would do is given back.
    a.malloc(300 * MiB)
    assert (a.retries, a.reserved) == (0, 420 * MiB)


def test_with_max_split_the_largest_blocks_are_given_back_until_they_are_enough() -> None:
    a = made("max_split_size_mb:100", capacity=600 * MiB)
    for block in [a.malloc(n * MiB) for n in (120, 150, 200, 30)]:
        a.free(block)
    a.malloc(300 * MiB)
    assert (a.retries, a.reserved) == (0, (120 + 30 + 300) * MiB)


def test_without_max_split_everything_is_given_back() -> None:
    a = made(capacity=600 * MiB)
    for block in [a.malloc(n * MiB) for n in (120, 150, 200, 30)]:
        a.free(block)
    a.malloc(300 * MiB)
    assert (a.retries, a.reserved) == (1, 300 * MiB)


# setMemoryFraction, garbage_collect_cached_blocks, throw_on_cudamalloc_oom


def test_a_share_of_the_device_is_a_limit() -> None:
    a = made("per_process_memory_fraction:0.5", total=100 * MiB)
    a.malloc(30 * MiB)
    with pytest.raises(OutOfMemory):
        a.malloc(22 * MiB)
    a.malloc(20 * MiB)
    with pytest.raises(InputError, match="share of the device's memory"):
        made("per_process_memory_fraction:0.5")


def test_old_cached_segments_are_collected_above_the_threshold() -> None:
    a = made("garbage_collection_threshold:0.5,per_process_memory_fraction:0.9", total=200 * MiB)
    old, young = a.malloc(40 * MiB), a.malloc(60 * MiB)
    a.free(old)
    for _ in range(9):
        a.free(young)
        young = a.malloc(60 * MiB)
    a.free(young)
    # 100 of 180 MiB are held, more than 90: the old one is of more than average age, the young one is not.
    a.malloc(70 * MiB)
    assert a.reserved == 130 * MiB
    assert a.retries == 0
    assert [block.size for block in a.blocks()] == [70 * MiB, 60 * MiB]


def test_nothing_is_collected_below_the_threshold() -> None:
    a = made("garbage_collection_threshold:0.9,per_process_memory_fraction:0.9", total=200 * MiB)
    a.free(a.malloc(40 * MiB))
    a.malloc(60 * MiB)
    assert a.reserved == 100 * MiB


def test_reject_skips_the_retry() -> None:
    conf = "per_process_memory_fraction:0.5,throw_on_cudamalloc_oom:"
    for flag, retries in (("False", 1), ("True", 0)):
        a = made(conf + flag, total=100 * MiB)
        a.free(a.malloc(30 * MiB))
        try:
            a.malloc(40 * MiB)
        except OutOfMemory:
            assert flag == "True"
        assert (a.retries, a.reserved) == (retries, 30 * MiB if flag == "True" else 40 * MiB)


def test_peaks_are_kept() -> None:
    a = made()
    blocks = [a.malloc(3 * MiB) for _ in range(4)]
    for block in blocks:
        a.free(block)
    a.empty_cache()
    assert (a.requested, a.allocated, a.reserved) == (0, 0, 0)
    assert (a.peak_requested, a.peak_allocated, a.peak_reserved) == (12 * MiB, 12 * MiB, 20 * MiB)


def test_a_block_shows_itself() -> None:
    assert isinstance(block := made().malloc(1), Block)
    assert repr(block).startswith("Block(address=0x7eff")
