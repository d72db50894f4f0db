"""LoRA beside parameters that are no module of their own: stacked experts and their router.

peft adds the adapters' product to such a parameter and runs the model's code with the sum. Of experts, the sum is as
large as they are, and is kept for the backward pass.

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/lora/layer.py (``ParamWrapper``)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Grads, Parameter, Source, Value, needs_grad
from tonnage.tensors import Axes, size

Merge = Callable[[], Value]
"""Makes the sum, where the model's code asks for the parameter."""


def merges(f: Forward, tensors: Sequence[tuple[str, Axes]], ranks: dict[str, int], dtype: str) -> dict[str, Merge]:
    """What stands for stacked matrices that have adapters.

    Args:
        f: the pass.
        tensors: name below the layer and axes of each, in the order of the model's code.
        ranks: of the adapters of one matrix, by name.
        dtype: format of the adapters.
    """
    found: dict[str, Merge] = {}
    # The wrapper of the last one is the outermost.
    for name, axes in reversed(tensors):
        if name in ranks:
            found[name] = _stacked(f, name, axes, ranks[name], dtype)
    return found


def _stacked(f: Forward, name: str, axes: Axes, rank: int, dtype: str) -> Merge:
    """Both factors in the format of the matrices; the sum is made once to be looked at, and again when it is asked for.

    ``axes`` are those of ``[experts, *outs, ins]``.
    """
    tape, grad = f.tape, f.tape.grad
    weight = tape.parameter(name, axes)
    form = weight.dtype
    E, outs, ins = axes[0], axes[1:-1], axes[-1]
    inner = ("R", rank * E[1])
    a = Parameter(tape, f"{name}.lora_A.weight", (inner, ins), dtype, grad)
    b = Parameter(tape, f"{name}.lora_B.weight", (*outs, inner), dtype, grad)
    left = _factor(b, (E, ("X", size(outs)), ("R", rank)), form, turned=True)
    right = _factor(a, (E, ("R", rank), ins), form, turned=False)
    tape.new("experts and adapters", axes, form)

    def merge() -> Value:
        out = tape.product("experts and adapters", axes, form)
        shapes = (left.axes, right.axes)
        makes = (needs_grad(left), needs_grad(right))

        def back(g: Value) -> Grads:
            ways = zip(shapes, makes, strict=True)
            return tuple(tape.product("gradient of a factor", axes, form) if made else None for axes, made in ways)

        kept = tuple(v for v in (left, right) if isinstance(v, Value))
        tape.record((out,), (left, right), back, kept)
        return out

    return merge


def _factor(weight: Parameter, axes: Axes, form: str, *, turned: bool) -> Value | Parameter:
    """One factor by expert: ``turned`` where that moves its axes, of which the gradient is a copy."""
    if weight.dtype == form and not turned:
        return weight
    tape, own, whole = weight.tape, weight.dtype, weight.axes
    first: Source = weight
    if turned:
        # A view, but for its gradient.
        view = tape.new("factor by expert", (("X", 0),), own).view(axes)
        view.dtype = own
        tape.record((view,), (weight,), lambda g: (tape.new("gradient of factor", whole, own),), ())
        first = view
    if own == form:
        assert isinstance(first, Value)
        return first
    out = tape.new("factor cast", axes, form)
    tape.record((out,), (first,), lambda g: (tape.new("gradient of factor cast", axes, own),), ())
    return out


def plain(f: Forward, name: str, outs: Axes, ins: Axes, rank: int, dtype: str) -> Value:
    """One matrix with its adapters' product added."""
    tape, grad = f.tape, f.tape.grad
    axes = outs + ins
    weight = tape.parameter(f"{name}.weight", axes)
    form = weight.dtype
    inner: Axes = (("R", rank),)
    a = Parameter(tape, f"{name}.lora_A.weight", inner + ins, dtype, grad)
    b = Parameter(tape, f"{name}.lora_B.weight", outs + inner, dtype, grad)
    # Autocast takes hold of this product, as of any.
    second, first = ops.lowered_weight(b), ops.lowered_weight(a)
    formed = first.dtype
    product = tape.product("product of factors", axes, formed)

    def back(g: Value) -> Grads:
        return (
            tape.new("gradient of factor", a.axes, formed),
            tape.new("gradient of factor", b.axes, formed),
        )

    tape.record((product,), (first, second), back, tuple(v for v in (first, second) if isinstance(v, Value)))
    del first, second
    delta = ops.scaled(product)
    del product
    delta = ops.cast(delta, form)
    tape.new("matrix and adapters", axes, form)
    return ops.add(delta, weight, "matrix and adapters")


def product(x: Value, weight: Value, ins: int, outs: Axes) -> Value:
    """``F.linear`` with a matrix that was made: both are saved."""
    x, weight = ops.lowered(x), ops.lowered(weight)
    tape, inner, matrix, form = x.tape, x.axes, weight.axes, x.dtype
    out = tape.product("product", inner[: len(inner) - ins] + outs, form)
    grad_x, grad_w = needs_grad(x), needs_grad(weight)

    def back(g: Value) -> Grads:
        gw = tape.product("weight gradient", matrix, form) if grad_w else None
        gx = tape.product("input gradient", inner, form) if grad_x else None
        return gx, gw

    tape.record((out,), (x, weight), back, (*((x,) if grad_w else ()), *((weight,) if grad_x else ())))
    return out
