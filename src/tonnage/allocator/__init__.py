"""PyTorch's CUDA caching allocator in arithmetic: a stream of allocations and frees in, what a device holds out.

The rules are those of ``c10/cuda/CUDACachingAllocator.cpp`` of pytorch/pytorch, read in a copy of the 2.10 line, and of
``c10/core/AllocatorConfig.h`` of 2.13.0. Left out: private pools (CUDA graphs, ``MemPool``), callbacks that free
memory, and sharing between processes.
"""

from __future__ import annotations

from tonnage.allocator.caching import Allocator, OutOfMemory
from tonnage.allocator.device import Device
from tonnage.allocator.run import Outcome, run
from tonnage.allocator.settings import Settings, parse

__all__ = ["Allocator", "Device", "OutOfMemory", "Outcome", "Settings", "parse", "run"]
