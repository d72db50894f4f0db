"""What autograd does in place when no mode is active.

While a dispatch mode is active the engine takes other branches: it adds gradients up in a third tensor instead of in
the first, and some formulas use the functional form of an operation on zeros that they have just made. Here those
operations run in place again where the engine would have, so that the streams equal real execution.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/csrc/autograd/input_buffer.cpp (accumulate: the buffer
is taken over when it is dense and solely owned) and functions/accumulate_grad.h.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch._prims_common import is_non_overlapping_and_dense_or_false as dense

aten: Final = torch.ops.aten
ADD: Final = aten.add.Tensor
IN_PLACE: Final[dict[Any, Any]] = {
    aten.scatter.src: aten.scatter_.src,
    aten.scatter.value: aten.scatter_.value,
    aten.scatter_add.default: aten.scatter_add_.default,
    aten.index_put.default: aten.index_put_.default,
    aten.index_add.default: aten.index_add_.default,
    aten.index_copy.default: aten.index_copy_.default,
    aten.masked_scatter.default: aten.masked_scatter_.default,
    aten.masked_fill.Scalar: aten.masked_fill_.Scalar,
}
ZEROS: Final = frozenset(
    ("aten.zeros.default", "aten.new_zeros.default", "aten.zeros_like.default", "aten.full.default")
)

SOLE_TENSOR: Final = 4
"""References to a tensor that the engine's buffer alone holds, as seen from inside a mode."""
SOLE_STORAGE: Final = 2
"""References to its storage: the tensor and the wrapper that is asked."""

ENGINE: Final = "_engine_run_backward"
"""The function of torch that calls the engine: what it issues itself has no Python frame of a node in between."""
FRAMES: Final = frozenset(("__torch_dispatch__", "_fn", "inner", "instead", "_by_engine"))


class InPlace:
    """Corrections, and how many there were."""

    def __init__(self) -> None:
        self.corrected = 0
        self.in_math = 0
        self._fresh: tuple[int, int | None] | None = None

    def instead(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[bool, Any]:
        """Run an operation of the backward pass in place where torch would; whether it did, and the result."""
        if func is ADD and len(args) == 2 and not kwargs and _sole(args[0], args[1]):
            aten.add_.Tensor(args[0], args[1])
            self.corrected += 1
            return True, args[0]
        if func in IN_PLACE and isinstance(args[0], torch.Tensor) and self._made_here(args[0]):
            IN_PLACE[func](*args, **kwargs)
            self.corrected += 1
            return True, args[0]
        return False, None

    def _made_here(self, t: torch.Tensor) -> bool:
        """Whether the node at hand has just made these zeros."""
        return self._fresh is not None and self._fresh == (t.untyped_storage()._cdata, _node())

    def masked(self, func: Any, args: Sequence[Any]) -> tuple[bool, Any]:
        """The unfused attention adds its mask in place; a composite under a mode does not."""
        tensors = len(args) == 2 and all(isinstance(a, torch.Tensor) for a in args)
        if func is ADD and tensors and args[0].shape[-1] == args[1].shape[-1]:
            aten.add_.Tensor(args[0], args[1])
            return True, args[0]
        return False, None

    def made(self, op: str, out: Any) -> None:
        """Remember zeros that a node made for itself."""
        if op in ZEROS and isinstance(out, torch.Tensor):
            self._fresh = (out.untyped_storage()._cdata, _node())


def _node() -> int | None:
    node = torch._C._current_autograd_node()
    return None if node is None else int(node._sequence_nr())


def _sole(a: Any, b: Any) -> bool:
    """Whether the engine would add ``b`` into ``a``: a gradient that nothing else holds."""
    return (
        isinstance(a, torch.Tensor)
        and isinstance(b, torch.Tensor)
        and not torch.is_grad_enabled()
        and a.shape == b.shape
        and a.dtype == b.dtype
        and dense(a)
        and a._use_count() <= SOLE_TENSOR
        and torch._C._storage_Use_Count(a.untyped_storage()._cdata) == SOLE_STORAGE
        and _by_engine()
    )


def _by_engine() -> bool:
    """Whether the engine itself issued the operation, and not the Python code of a custom function."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (frame.f_code.co_name in FRAMES or frame.f_code.co_name == "_sole"):
        frame = frame.f_back
    return frame.f_code.co_name == ENGINE
