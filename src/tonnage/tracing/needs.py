"""Code that reads a number out of a tensor: a trace has none to give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

HINT: Final = (
    "leave it out of what is traced, put the number that it would give in its place, or --item NUMBER answers every "
    "such read with it"
)
SHAPE_HINT: Final = "its result's size depends on data: write it with a fixed size, such as torch.where or a mask"


PACKED: Final = ("Params4bit", "Int8Params")
"""Of bitsandbytes: torch makes none of a tensor without data."""
PACKED_HINT: Final = "tonnage trace MODEL --task train --quant nf4 --lora-rank 16 traces a model with them"


def packed(e: BaseException) -> bool:
    """Whether an error is that of a weight which cannot be packed."""
    return "new Tensor subclass" in str(e) and any(name in str(e) for name in PACKED)


class NeedsDataError(RuntimeError):
    """Real data is asked for."""


def declared(func: Any, args: Sequence[Any], item: float | None) -> Any:
    """What reading a number gives: its value where it is a constant of the code, else what was declared for it.

    Raises:
        NeedsDataError: nothing was.
    """
    try:
        return func(*args)
    except Exception as e:
        if item is None:
            raise NeedsDataError("a number is read out of a tensor that has no data") from e
    dtype = args[0].dtype
    if len(args) > 1:
        # Whether two tensors are equal.
        return bool(item)
    return bool(item) if dtype is torch.bool else float(item) if dtype.is_floating_point else int(item)
