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
