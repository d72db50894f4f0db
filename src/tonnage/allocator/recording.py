"""What a memory snapshot of PyTorch says: what the allocator did, and what it held at the end.

``torch.cuda.memory._snapshot()``; torch/csrc/cuda/memory_snapshot.cpp of pytorch/pytorch. Sizes of allocations are as
requested, those of segments and of the blocks at the end are real.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from tonnage.record import Record

Entry = tuple[str, int, int, int]
"""Action, address, size and stream."""

ACTIONS: Final = (
    "alloc", "free_requested", "free_completed", "segment_alloc", "segment_free", "segment_map", "segment_unmap",
)  # fmt: skip
"""Those that change what is held. Others (``snapshot``, ``oom``) are passed over."""
GIVEN_BACK: Final = ("segment_free", "segment_unmap")
LIVE: Final = "active_allocated"
WAITING: Final = ("active_pending_free", "active_awaiting_free")
"""Freed, while another stream may use it; the second name is that of older releases."""


class Part(NamedTuple):
    """A block: where, how large, what was asked for [byte], and in which state."""

    address: int
    size: int
    requested: int
    state: str


class Segment(NamedTuple):
    """A segment; of an expandable one each stretch of mapped memory is one."""

    address: int
    size: int
    stream: int
    small: bool
    expandable: bool
    parts: tuple[Part, ...]


class Recording(Record):
    """A recording of one device.

    Args:
        segments: at the end, in order of address.
        entries: what happened, in order.
        settings: as ``PYTORCH_CUDA_ALLOC_CONF`` had them.
        file: for messages.
    """

    segments: tuple[Segment, ...]
    entries: Sequence[Entry]
    settings: str
    file: str

    @property
    def reserved(self) -> int:
        """At the end. [byte]"""
        return sum(s.size for s in self.segments)

    @property
    def allocated(self) -> int:
        """At the end. [byte]"""
        return sum(p.size for s in self.segments for p in s.parts if p.state == LIVE)


def completed(entries: Sequence[Entry], index: int) -> bool:
    """Whether the free at ``index`` is completed at once, as it is where one stream alone used the block."""
    if index + 1 == len(entries):
        return False
    action, address, _, _ = entries[index + 1]
    return action == "free_completed" and address == entries[index][1]
