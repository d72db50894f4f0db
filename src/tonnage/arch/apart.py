"""A matrix over rows that do not lie one behind the other: a slice, or what a convolution left across.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/Linear.cpp (linear), LinearAlgebra.cpp
(should_fold).
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.tape import Parameter, Value
from tonnage.tensors import Axes


def linear(x: Value, weight: Parameter, bias: Parameter | None, outs: Axes) -> Value:
    """``F.linear`` over the last axis: rows are copied for a weight that is trained, else a batch; a bias is added."""
    b = None if bias is None else ops.lowered_weight(bias)
    if weight.trained:
        # Cast before what is multiplied, and found again.
        ops.lowered_weight(weight)
    narrow = ops.lowered(x)
    copied = weight.trained and narrow.axes[0][1] > 1
    rows = ops.copy(narrow, label="rows one behind the other") if copied else narrow.view(narrow.axes)
    y = ops.linear(rows, weight, None, 1, outs)
    return y if b is None else ops.add(y, b, "with bias", in_place=True)
