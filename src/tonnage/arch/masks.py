"""Attention masks that a pass makes once and its layers share.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/masking_utils.py: without padding,
the fused kernels need no mask unless a layer sees as many tokens as its window has, or
several new tokens see others that are cached; the eager kernel always takes one.
"""

from __future__ import annotations

from tonnage.arch.forward import Forward
from tonnage.tensors import Axes


def of_ones(f: Forward, axes: Axes, dtype: str, *, causal: bool) -> None:
    """What code makes that takes no mask for one of ones, which it names to its end (Switch Transformers).

    A causal mask is made of it as ever; else it is turned into a row of numbers for each sequence.
    """
    (_, B), (_, T) = axes
    f.frame.append(f.tape.new("mask of ones", axes, "fp32"))
    if causal:
        pairs: Axes = (("B", B), ("X", 1), ("T", T), ("S", T))
        ones = f.tape.new("mask of ones", axes, "bool")
        seen = f.tape.new("tokens that are seen", pairs, "bool")
        numbers = f.tape.new("zero", (), dtype), f.tape.new("smallest number", (), dtype)
        f.masks[None] = f.tape.new("attention mask", pairs, dtype)
        del ones, seen, numbers
        return
    row: Axes = (("B", B), ("X", 1), ("X", 1), ("S", T))
    narrow = None if dtype == "fp32" else f.tape.new("mask of ones, cast", row, dtype)
    hidden = f.tape.new("tokens that are hidden", row, dtype)
    f.masks[None] = f.tape.new("attention mask", row, dtype)
    del narrow, hidden


def make_masks(
    f: Forward, windows: set[int | None], batch: int, queries: int, keys: int, dtype: str, *, always: bool = False
) -> None:
    """Put a mask for each kind of window where the layers find it, but for those that the stem has made.

    ``always``: also where a kernel could do without.
    """
    if f.kernel == "flex":
        # Imported late: few passes run through it.
        from tonnage.arch.flex import mask

        for window in windows:
            f.blocks[window] = mask(f.tape, batch, queries, keys, documents=f.documents)
        return
    for window in windows:
        if window in f.masks:
            continue
        # A layer that slides shows what it has cached, one less than its window, and the new tokens. A window of 0 is
        # that of a model without such layers.
        seen = queries + min(keys - queries, window - 1) if window else keys
        if f.kernel == "flash_attention_2":
            # Its kernels know the mask of causal attention and of a window.
            continue
        if f.kernel == "eager":
            form, sequences = dtype, batch
        elif (window is not None and seen >= window) or keys > queries > 1:
            # One for all sequences: what is boolean is only seen as one for each.
            form, sequences = "bool", batch if always else 1
        elif always:
            form, sequences = "bool", batch
        else:
            continue
        axes: Axes = (("B", sequences), ("X", 1), ("T", queries), ("S", seen))
        f.masks[window] = f.tape.new("attention mask", axes, form)
