"""What torch itself accepts and refuses as allocator settings."""

from __future__ import annotations

import pytest
import torch

from tonnage.allocator.settings import parse
from tonnage.errors import TonnageError

ALIKE = [
    "",
    "max_split_size_mb:19",
    "max_split_size_mb:20",
    "max_split_size_mb",
    "max_split_size_mb=30",
    "expandable_segments:true",
    "expandable_segments:True",
    "expandable_segments:[True]",
    "garbage_collection_threshold:1.0",
    "garbage_collection_threshold:0",
    "garbage_collection_threshold:abc",
    "garbage_collection_threshold:0.8",
    "roundup_power2_divisions:3",
    "roundup_power2_divisions:0",
    "roundup_power2_divisions:16",
    "roundup_power2_divisions:[256:1,512:2,>:8]",
    "roundup_power2_divisions:[256:3]",
    "roundup_power2_divisions:[250:2]",
    "roundup_power2_divisions:[256:1",
    "roundup_power2_divisions:[>:4]",
    "roundup_power2_divisions:[1:0]",
    "roundup_power2_divisions:[]",
    "large_segment_size_mb:10",
    "large_segment_size_mb:11,max_split_size_mb:12",
    "max_split_size_mb:12,large_segment_size_mb:11",
    "large_segment_size_mb:64,max_split_size_mb:32",
    "max_non_split_rounding_mb:5",
    "max_split_size_mb:30,",
    "max_split_size_mb:[30]",
    " max_split_size_mb : 30 ",
]


@pytest.mark.parametrize("text", ALIKE)
def test_torch_takes_the_same_strings(text: str) -> None:
    told = torch._C._accelerator_setAllocatorSettings
    # What an earlier call set stays in torch where a later one does not set it.
    told("large_segment_size_mb:20,max_non_split_rounding_mb:20,expandable_segments:False")
    try:
        told(text)
        torch_takes = True
    except (ValueError, RuntimeError, IndexError):
        torch_takes = False
    finally:
        told("large_segment_size_mb:20,max_non_split_rounding_mb:20,expandable_segments:False")
    try:
        parse(text)
        taken = True
    except TonnageError:
        taken = False
    assert taken == torch_takes
