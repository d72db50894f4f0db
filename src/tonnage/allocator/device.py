"""The memory that cudaMalloc gives out."""

from __future__ import annotations

from typing import Final

LAST: Final = 0x7F00_0000_0000
"""Address below which the first segment lies; torch's own begin near it on Linux."""
NOWHERE: Final = 2**60
"""Addresses that lie up to a petabyte below are none that a real device gives out."""
GRANULE: Final = 2**21
"""Address space is given out in steps of this. [byte]"""
UNLIMITED: Final = 2**40
"""Total memory of a device without a limit, which sizes the address space of expandable segments. [byte]"""


class Device:
    """Memory of a device, as far as one process may have it.

    It fails only when more than the capacity is held: a device maps pages, so that free memory in several places serves
    one segment. Addresses go downward where nothing is said, and none is given out twice. They decide which of two free
    blocks of the same size is taken: the one whose segment came last. Real drivers go downward, with exceptions: of the
    segments of the recordings under ``accuracy/recordings`` 1,753 of 2,294 lie below the one before. On another machine
    two runs are equal to the byte with upward addresses alone, and 0.5 to 0.6 % off with downward ones.

    Args:
        capacity: that the process may have; None is no limit. [byte]
        total: of the device, of which ``memory_fraction`` is a share; the capacity where nothing is said. [byte]
        last: address below which the first is given out, or above it.
        upward: addresses rise.
    """

    def __init__(
        self, capacity: int | None = None, *, total: int | None = None, last: int = LAST, upward: bool = False
    ) -> None:
        self.capacity = capacity
        self.total = capacity if total is None else total
        self.used = 0
        self._next = last
        self._upward = upward

    def _room(self, size: int) -> bool:
        return self.capacity is None or self.used + size <= self.capacity

    def _space(self, size: int) -> int:
        whole = -(-size // GRANULE) * GRANULE
        if self._upward:
            self._next += whole
            return self._next - whole
        self._next -= whole
        return self._next

    def allocate(self, size: int) -> int | None:
        """cudaMalloc: an address, or None where memory is short."""
        if not self._room(size):
            return None
        self.used += size
        return self._space(size)

    def release(self, address: int, size: int) -> None:
        """cudaFree."""
        self.used -= size

    def reserve(self, size: int) -> int:
        """Address space without memory, for an expandable segment."""
        return self._space(size)

    def map(self, address: int, size: int) -> bool:
        """Memory behind address space; False where memory is short."""
        if not self._room(size):
            return False
        self.used += size
        return True

    def unmap(self, address: int, size: int) -> None:
        """The reverse of ``map``."""
        self.used -= size
