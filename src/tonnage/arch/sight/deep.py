"""What a tower sees at several depths, added to the outputs of the language model's first layers (Qwen3-VL).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3_vl/
modeling_qwen3_vl.py (Qwen3VLTextModel._deepstack_process); https://github.com/pytorch/pytorch/blob/v2.13.0/
tools/autograd/derivatives.yaml (index, index_put_).

Leaves out: the places of a mask, for as long as an operation asks for them.
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.sight.rows import places_sorted
from tonnage.arch.tape import Grads, Value, needs_grad


class Deep:
    """Features of every picture's token at each depth, and the mask of these tokens."""

    def __init__(self, mask: Value, features: list[Value]) -> None:
        self.mask = mask
        self.features = features

    def added(self, f: Forward, x: Value, feature: Value) -> Value:
        """A layer's output with what is seen: a copy, of which the rows of the mask are written over."""
        mask, feature = self.mask, ops.cast(feature, x.dtype)
        y = ops.copy(x, label="output to be written to")
        rows = ops.add(_picked(y, mask, feature), feature, "rows with what is seen")
        return _written(y, mask, rows)


def _picked(x: Value, mask: Value, like: Value) -> Value:
    """``x[mask, :]``: keeps the mask; its gradient is added up in zeros."""
    tape, axes, dtype, rows = x.tape, x.axes, x.dtype, like.axes[0][1]
    out = tape.new("rows of the mask", like.axes, dtype)

    def back(_: Value) -> Grads:
        found = tape.new("gradient of rows", axes, dtype)
        places_sorted(tape, rows)
        return (found,)

    tape.record((out,), (x,), back, (mask,))
    return out


def _written(x: Value, mask: Value, rows: Value) -> Value:
    """``x[mask, :] = rows``: keeps the mask; the gradient is copied with zeros in it, and its rows are picked."""
    tape, axes, part, dtype = x.tape, x.axes, rows.axes, x.dtype
    out = Value(x.storage, axes, dtype)
    flows, sees = needs_grad(x), needs_grad(rows)

    def back(_: Value) -> Grads:
        zeros = tape.new("zeros", part, dtype) if flows else None
        whole = tape.new("gradient without rows", axes, dtype) if flows else None
        del zeros
        return whole, tape.new("gradient of what is written", part, dtype) if sees else None

    tape.record((out,), (x, rows), back, (mask,))
    return out
