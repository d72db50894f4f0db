"""Attention masks that a pass makes once and its layers share.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/masking_utils.py: without padding,
the fused kernels need no mask unless a window is shorter than the sequence; the eager kernel always takes one.
"""

from __future__ import annotations

from tonnage.arch.forward import Forward
from tonnage.tensors import Axes


def make_masks(f: Forward, windows: set[int | None], batch: int, queries: int, keys: int, dtype: str) -> None:
    """Put a mask for each kind of window where the layers find it, but for those that the stem has made."""
    for window in windows:
        if window in f.masks:
            continue
        if f.kernel == "eager":
            form = dtype
        elif window is not None and keys > window:
            form = "bool"
        else:
            continue
        axes: Axes = (("B", batch), ("X", 1), ("T", queries), ("S", keys))
        f.masks[window] = f.tape.new("attention mask", axes, form)
