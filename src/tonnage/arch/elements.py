"""Elementwise steps and sums over rows that few models take, as autograd runs them back.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/ torch/csrc/autograd/FunctionsManual.cpp
(div_tensor_other_grad, std_backward, var_backward) and tools/autograd/derivatives.yaml (clamp, sqrt).
"""

from __future__ import annotations

from tonnage.arch.ops import fitted, promoted
from tonnage.arch.tape import Grads, Parameter, Value, needs_grad
from tonnage.tensors import Axes, size


def divided(a: Value, b: Value, label: str = "quotient") -> Value:
    """``a / b``, the second broadcast to the first: both are saved."""
    tape, dtype = a.tape, promoted(a.dtype, b.dtype)
    axes, axes_b, dtype_a, dtype_b = a.axes, b.axes, a.dtype, b.dtype
    out = tape.new(label, axes, dtype)
    grad_a, grad_b = needs_grad(a), needs_grad(b)

    def back(g: Value) -> Grads:
        other = None
        if grad_b:
            parts = [tape.new(name, axes, dtype) for name in ("quotient", "quotient, divided", "negated gradient")]
            other = tape.new("gradient of divisor", axes, dtype)
            while parts:
                parts.pop()
        own = tape.new("gradient of dividend", axes, dtype) if grad_a else None
        return fitted(own, axes, dtype_a), fitted(other, axes_b, dtype_b)

    saved = (*((a,) if grad_b else ()), b)
    tape.record((out,), (a, b), back, saved)
    return out


def rooted(x: Value) -> Value:
    """``torch.sqrt``: saves its result."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("root", axes, dtype)

    def back(g: Value) -> Grads:
        twice = tape.new("twice the root", axes, dtype)
        grad = tape.new("gradient of root", axes, dtype)
        del twice
        return (grad,)

    tape.record((out,), (x,), back, (out,))
    return out


def within(x: Value | Parameter, *, both: bool = False) -> Value:
    """``x.clamp(...)``, to ``both`` sides or to one: saves its input."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("within bounds", axes, dtype)

    def back(g: Value) -> Grads:
        zero = tape.new("zero", (), dtype)
        inside = [tape.new("inside", axes, "bool") for _ in range(1 + both)]
        grad = tape.new("gradient of clamp", axes, dtype)
        del inside, zero
        return (grad,)

    saved = (x,) if isinstance(x, Value) else ()
    tape.record((out,), (x,), back, saved, keeps_weight=isinstance(x, Parameter))
    return out


def spread(x: Value) -> Value:
    """``torch.std(x, -1, keepdim=True)``: saves input and result."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("deviation", axes[:-1], dtype)
    few = axes[:-1]

    def back(g: Value) -> Grads:
        twice = tape.new("twice the deviation", few, dtype)
        grad = tape.new("gradient of variance", few, dtype)
        del twice
        nothing = tape.new("no deviation", few, "bool")
        filled = tape.new("gradient of variance, filled", few, dtype)
        del grad, nothing
        scaled = tape.new("scaled gradient", few, dtype)
        average = tape.new("mean", few, dtype)
        centred = tape.new("centred", axes, dtype)
        del average
        whole = tape.new("gradient of deviation", axes, dtype)
        del centred, scaled, filled
        return (whole,)

    tape.record((out,), (x,), back, (x, out))
    return out


def regrouped(x: Value, axes: Axes) -> Value:
    """A view whose gradient is laid out otherwise, so that it is copied to be viewed back."""
    assert size(axes) == size(x.axes)
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = Value(x.storage, axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient, laid out anew", before, dtype),), ())
    return out
