"""PYTORCH_CUDA_ALLOC_CONF is read as torch 2.13.0 reads it, and what it refuses is one clear line."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage.allocator.settings import Settings, parse
from tonnage.errors import InputError, TonnageError, UnsupportedError
from tonnage.units import MiB


def test_defaults_are_torch_s() -> None:
    s = parse("")
    assert s.__dict__ == Settings().__dict__
    assert (s.max_split, s.rounding, s.large_segment) == (None, 20 * MiB, 20 * MiB)
    assert (s.collect_above, s.memory_fraction, s.expandable, s.reject) == (0.0, 1.0, False, False)
    assert s.divisions == (0,) * 16


def test_every_key() -> None:
    s = parse(
        " max_split_size_mb: 128, max_non_split_rounding_mb:64,large_segment_size_mb:32,"
        "garbage_collection_threshold:0.8,per_process_memory_fraction:0.5,expandable_segments:True,throw_on_cudamalloc_oom:True,"
        "roundup_power2_divisions:8,backend:native,pinned_use_background_threads:True,"
    )
    assert (s.max_split, s.rounding, s.large_segment) == (128 * MiB, 64 * MiB, 32 * MiB)
    assert (s.collect_above, s.memory_fraction, s.expandable, s.reject) == (0.8, 0.5, True, True)
    assert s.divisions == (8,) * 16


def test_the_large_segment_is_read_first() -> None:
    assert parse("max_split_size_mb:12,large_segment_size_mb:11").max_split == 12 * MiB
    assert parse("large_segment_size_mb:64").rounding == 64 * MiB


def test_of_a_key_that_stands_twice_the_last_counts() -> None:
    assert parse("max_split_size_mb:30,max_split_size_mb:40").max_split == 40 * MiB


@pytest.mark.parametrize(
    ("stated", "table"),
    [
        ("4", [4] * 16),
        ("[]", [0] * 16),
        ("[1:2]", [2] + [0] * 15),
        ("[4:2]", [2, 2, 2] + [0] * 13),
        ("[4:2,16:0,64:8,>:1]", [2, 2, 2, 0, 0, 0, 8] + [1] * 9),
        ("[>:4]", [0] + [4] * 15),
        ("[65536:2]", [2] * 16),
        ("[1048576:2]", [2] * 16),
    ],
)
def test_divisions_by_size(stated: str, table: list[int]) -> None:
    assert list(parse(f"roundup_power2_divisions:{stated}").divisions) == table


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max_split_size_mb:19", "max_split_size_mb too small, must be >= 20"),
        ("large_segment_size_mb:64,max_split_size_mb:32", "too small, must be >= 64"),
        ("max_non_split_rounding_mb:5", "max_non_split_rounding_mb too small, must be >= 20"),
        ("large_segment_size_mb:10", "large_segment_size_mb must be > 10"),
        ("garbage_collection_threshold:1.0", "set it in (0.0, 1.0)"),
        ("garbage_collection_threshold:0", "set it in (0.0, 1.0)"),
        ("garbage_collection_threshold:nan", "set it in (0.0, 1.0)"),
        ("garbage_collection_threshold:abc", "is a number, not 'abc'"),
        ("per_process_memory_fraction:1.5", "set it in [0.0, 1.0]"),
        ("roundup_power2_divisions:3", "powers of two, not 3"),
        ("roundup_power2_divisions:0", "powers of two, not 0"),
        ("roundup_power2_divisions:[256:3]", "powers of two, not 3"),
        ("roundup_power2_divisions:[250:2]", "powers of two, not 250"),
        ("roundup_power2_divisions:[256:1", "',' expected, not the end"),
        ("roundup_power2_divisions:[256:1 512:2]", "powers of two"),
        ("expandable_segments:true", "is True or False, not 'true'"),
        ("expandable_segments:[True]", "is True or False, not '['"),
        ("expandable_segments", "':' expected, not the end"),
        ("expandable_segments=True", "unrecognized key 'expandable_segments=True'"),
        ("max_split_size_mb:", "'a value' expected, not the end"),
        ("max_split_size_mb:-1", "is a whole number, not '-1'"),
        ("max_split_size_mb:21abc", "is a whole number, not '21abc'"),
        ("max_split_size_mb:[30]", "is a whole number, not '['"),
        ("max_split_size_mb:30;expandable_segments:True", "is a whole number"),
        ("max_split_size_mb:30:40", "',' expected, not ':'"),
        (",", "unrecognized key ','"),
        ("backend:mine", "options are native and cudaMallocAsync"),
        ("pinned_use_background_threads:1", "is True or False"),
    ],
)
def test_what_is_wrong_is_said(text: str, told: str) -> None:
    with pytest.raises(InputError) as found:
        parse(text)
    assert told in str(found.value)
    assert found.value.key == "alloc_conf"


def test_a_key_that_is_nearly_right_is_named() -> None:
    with pytest.raises(InputError) as found:
        parse("max_split_size:128")
    assert found.value.nearest[0] == "max_split_size_mb"


def test_the_driver_s_own_allocator_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="not modelled"):
        parse("backend:cudaMallocAsync")


def test_absurd_sizes_are_cut() -> None:
    assert parse("max_split_size_mb:99999999999999999999").max_split == 2**44 * MiB


@given(st.text(alphabet="maxsplitroundgexdbTF_:,[]>0123456789. ", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(TonnageError):
        assert isinstance(parse(text), Settings)
