"""Operations on small trained matrices, which may be parameters or what was made of them.

As in ``arch/ops.py``, every function does to sizes what the torch operation does to storages.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/ tools/autograd/derivatives.yaml and
torch/csrc/autograd/FunctionsManual.cpp
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.tape import Back, Grads, Parameter, Tape, Value, needs_grad
from tonnage.tensors import Axes, size

Factor = Value | Parameter
"""What takes part in a product."""

EMPTY: Axes = (("X", 0),)


def buffer(tape: Tape, axes: Axes, dtype: str) -> Parameter:
    """A tensor that is resident and not trained."""
    return Parameter(tape, "buffer", axes, dtype, False)


def product(a: Factor, b: Factor, axes: Axes, label: str = "product of matrices") -> Value:
    """``a @ b``: saves what was made, and hands back the right factor's gradient first."""
    first, second = _low(a), _low(b)
    tape, form = first.tape, first.dtype
    shapes, makes = (first.axes, second.axes), (needs_grad(first), needs_grad(second))
    out = tape.product(label, axes, form)

    def back(g: Value) -> Grads:
        gb = tape.product("gradient of right factor", shapes[1], form) if makes[1] else None
        ga = tape.product("gradient of left factor", shapes[0], form) if makes[0] else None
        return ga, gb

    saved = [v for v, other in ((first, makes[1]), (second, makes[0])) if isinstance(v, Value) and other]
    tape.record((out,), (first, second), back, tuple(saved))
    return out


def _low(v: Factor) -> Factor:
    return ops.lowered_weight(v) if isinstance(v, Parameter) else ops.lowered(v)


def against(
    x: Value, weight: Factor, ins: int, outs: Axes, label: str = "product", *, bias: Factor | None = None
) -> Value:
    """``F.linear(x, weight, bias)`` with a matrix that may have been made: of three axes, rows are a view of two.

    The bias is not trained.
    """
    if isinstance(weight, Parameter):
        return ops.linear(x, weight, None, ins, outs)
    shift = None if bias is None else _low(bias)
    # The caller's frame holds what it was given until the product is there.
    given = (x, weight)
    weight, x = ops.lowered(weight), ops.lowered(x)
    tape, inner, matrix, form = x.tape, x.axes, weight.axes, x.dtype
    rows = inner[: len(inner) - ins]
    out = tape.product(label, rows + outs, form)
    grad_x, grad_w = needs_grad(x), needs_grad(weight)

    def back(g: Value) -> Grads:
        gw = tape.product("weight gradient", matrix, form) if grad_w else None
        gx = tape.product("input gradient", inner, form) if grad_x else None
        if gx is not None:
            gx.storage.viewed = len(rows) > 1
        return gx, gw

    saved = (*((x,) if grad_w else ()), *((weight,) if grad_x else ()))
    tape.record((out,), (x, weight), back, saved, flat=True)
    del given, shift
    return out


def taken(weight: Parameter, axes: Axes | None = None) -> Value:
    """A parameter as a value under other axes: nothing is made, and its gradient is a view."""
    return _seen(weight, axes or weight.axes, lambda g: (g.view(weight.axes),))


def turned(x: Factor, axes: Axes) -> Value:
    """A view in another order, whose gradient is laid out anew."""
    tape, before, dtype = x.tape, x.axes, x.dtype

    def back(g: Value) -> Grads:
        return (tape.new("gradient laid out", before, dtype),)

    if isinstance(x, Parameter):
        return _seen(x, axes, back)
    out = Value(x.storage, axes, dtype)
    tape.record((out,), (x,), back, ())
    return out


def part(weight: Parameter, axes: Axes) -> Value:
    """A slice of a parameter, whose gradient is as large as the whole."""
    tape, whole, dtype = weight.tape, weight.axes, weight.dtype
    return _seen(weight, axes, lambda _: (tape.new("gradient of slice", whole, dtype),))


def _seen(weight: Parameter, axes: Axes, back: Back) -> Value:
    out = weight.tape.new("view", EMPTY, weight.dtype).view(axes)
    weight.tape.record((out,), (weight,), back, ())
    return out


def scattered(values: Factor, axes: Axes, label: str) -> Value:
    """``zeros[..., indices] = values``."""
    tape, before, dtype = values.tape, values.axes, values.dtype
    out = tape.new(label, axes, dtype)
    tape.record((out,), (values,), lambda _: (tape.new("gradient of values", before, dtype),), ())
    return out


def accumulated(total: Value, x: Value, *, times: bool = True) -> Value:
    """``total.add_(x, alpha)``: with a number, the gradient of ``x`` is a multiple."""
    tape, axes, dtype, form = x.tape, x.axes, x.dtype, total.dtype
    out = Value(total.storage, total.axes, form)

    def back(g: Value) -> Grads:
        return g, ops.fitted(tape.new("multiple of gradient", axes, form) if times else g, axes, dtype)

    tape.record((out,), (total, x), back, ())
    return out


def repeated(x: Value, axes: Axes, label: str = "repeated") -> Value:
    """``x.repeat(...)``, whose gradients are summed."""
    return ops.copy(x, axes, label) if size(axes) > size(x.axes) else ops.copy(x, None, label)
