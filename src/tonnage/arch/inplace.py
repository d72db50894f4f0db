"""Operations that write into a tensor that is there already.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/ tools/autograd/gen_variable_type.py (what is saved of a
tensor that is overwritten) and torch/csrc/autograd/functions/tensor.cpp (``CopySlices``).
"""

from __future__ import annotations

from tonnage.arch.ops import fitted, promoted, to
from tonnage.arch.tape import Grads, Value, needs_grad
from tonnage.tensors import Axes


def clamped(x: Value) -> Value:
    """``x.clamp_(...)``: in place, so that a copy of what was there is saved."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = Value(x.storage, axes, dtype)
    if tape.grad and needs_grad(x):
        before = tape.new("before the clamp", axes, dtype)
        tape.record((out,), (x,), lambda g: (tape.new("gradient of clamp", axes, dtype),), (before,))
    return out


def multiplied(x: Value) -> Value:
    """``x *= buffer`` of one number: in place. The gradient's product is in the wider of both formats."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    wide = promoted(dtype, tape.buffers)
    out = Value(x.storage, axes, dtype)

    def back(g: Value) -> Grads:
        return (fitted(tape.new("gradient of product", axes, wide), axes, dtype),)

    # The buffer is saved as a weight is.
    tape.record((out,), (x,), back, (), keeps_weight=True)
    return out


def filled(base: Value, part: Value, axes: Axes) -> Value:
    """``base[...] = part``, where ``axes`` are those of the place, to which ``part`` is repeated.

    The backward pass copies the gradient whole, and its slice once more.
    """
    tape, whole, dtype, before, own = base.tape, base.axes, base.dtype, part.axes, part.dtype
    out = Value(base.storage, whole, dtype)
    grad_base = needs_grad(base)

    def back(g: Value) -> Grads:
        rest = tape.new("gradient around the slice", whole, dtype)
        grad = tape.new("gradient of slice", axes, dtype)
        zeros = tape.new("zeroed slice", axes, dtype) if grad_base else None
        # The copy's own step casts; the engine sums.
        grad = to(grad, own)
        del zeros
        return rest if grad_base else None, fitted(grad, before, own)

    tape.record((out,), (base, part), back, ())
    return out


def onto_view(base: Value, part: Value, place: Axes | None = None) -> Value:
    """``base.view(...).add_(part)``: the backward pass copies the gradient whole, and once more as the part's.

    ``place`` are the axes of the view, of all of the base where None; the part is repeated to them.
    """
    tape, axes, dtype = base.tape, base.axes, base.dtype
    before, own, view = part.axes, part.dtype, place or base.axes
    out = Value(base.storage, axes, dtype)

    def back(g: Value) -> Grads:
        whole = tape.new("gradient around the view", axes, dtype)
        return whole, fitted(tape.new("gradient of what was added", view, dtype), before, own)

    tape.record((out,), (base, part), back, ())
    return out
