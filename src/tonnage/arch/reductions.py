"""The scratch of CUDA's sums over rows: partial sums of several blocks, in global memory.

The arithmetic of ``setReduceConfig`` for tensors whose leading axes are summed and whose trailing axes are kept, all of
it contiguous, which is what gradients of norm weights and biases are. Sums along the last axis, and full sums, split
over blocks as well where there are few results: their scratch is a few KiB, and is left out.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/cuda/Reduce.cuh (ReduceConfig,
set_block_dimension, setReduceConfig, global_memory_size, semaphore_size).
"""

from __future__ import annotations

from typing import Final

THREADS: Final = 512
"""Of a block."""
WARP: Final = 32
FEWEST, MOST = 16, 256
"""Values that a thread sums."""
ACCUMULATED: Final = 4
"""Bytes of a partial sum: fp32, for 16-bit inputs as well."""
TARGET: Final = 108 * 2048
"""Threads that the device runs at once: those of an A100. Fewer matter where many columns are summed."""


def scratch(rows: int, columns: int, target: int = TARGET) -> tuple[int, int]:
    """Partial sums, and a counter for each group of blocks, of a sum over rows. [byte]

    >>> [scratch(rows, 1024) for rows in (512, 1024, 2048)]
    [(0, 0), (8388608, 32), (16777216, 32)]
    """
    wide = next(n for n in (4, 2, 1) if columns % n == 0)
    most = THREADS // wide
    across, along = _power(columns // wide, most), _power(rows, most)
    width = min(across, WARP)
    height = min(along, most // width)
    width = min(across, most // height)
    values = rows
    if values < height * FEWEST and values < MOST:
        return 0, 0
    values = -(-values // height)
    grid = -(-(columns // wide) // width)
    fits = target // (width * height)
    if height == 1 or values < MOST or grid > fits:
        return 0, 0
    blocks = max(min(-(-fits // grid), -(-values // FEWEST)), -(-values // MOST))
    if blocks < 2:
        return 0, 0
    return ACCUMULATED * columns * blocks * width * wide, ACCUMULATED * grid


def _power(n: int, most: int) -> int:
    """The largest power of two up to ``n``, or ``most``."""
    return most if n >= most else 1 << (max(n, 1).bit_length() - 1)
