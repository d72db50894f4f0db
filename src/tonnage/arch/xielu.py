"""xIELU (arXiv:2411.13010) as transformers writes it out where its kernel is not installed.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/activations.py (XIELUActivation)
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.tape import Grads, Parameter, Tape, Value

ONE = (("X", 1),)


def xielu(tape: Tape, path: str, x: Value) -> Value:
    """``where(x > 0, a * x * x + b * x, (expm1(min(x, eps)) - x) * c + b * x)``; a and c come of what is learned."""
    above = _softplus(tape.parameter(f"{path}alpha_p", ONE))
    below = ops.shifted(_softplus(tape.parameter(f"{path}alpha_n", ONE)))
    positive = tape.new("above zero", x.axes, "bool")
    # Nested as in the modelled code, so that no name keeps a part longer than its use.
    right = ops.add(ops.mul(ops.mul(above, x, "a x"), x, "a x x"), ops.scaled(x, "b x"), "xielu above zero")
    left = ops.add(
        ops.mul(ops.sub(_expm1(_lowest(x)), x), below, "xielu below zero"), ops.scaled(x, "b x"), "xielu below zero"
    )
    return _where(positive, right, left)


def _softplus(weight: Parameter) -> Value:
    tape, dtype = weight.tape, weight.dtype
    out = tape.new("softplus", ONE, dtype)
    tape.record((out,), (weight,), lambda g: (tape.new("gradient of softplus", ONE, dtype),), ())
    return out


def _lowest(x: Value) -> Value:
    """``torch.min(x, eps)``: keeps its input; ties share the gradient."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("lowest", axes, dtype)

    def back(g: Value) -> Grads:
        equal = tape.new("where equal", axes, "bool")
        half = tape.new("half of the gradient", axes, dtype)
        grad = tape.new("gradient of lowest", axes, dtype)
        higher = tape.new("where higher", axes, "bool")
        del equal, half, higher
        return (grad,)

    tape.record((out,), (x,), back, (x,))
    return out


def _expm1(x: Value) -> Value:
    """``torch.expm1``: keeps its result."""
    x = ops.raised(x)
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("expm1", axes, dtype)

    def back(g: Value) -> Grads:
        shifted = tape.new("result and one", axes, dtype)
        grad = tape.new("gradient of expm1", axes, dtype)
        del shifted
        return (grad,)

    tape.record((out,), (x,), back, (out,))
    return out


def _where(condition: Value, a: Value, b: Value) -> Value:
    """``torch.where``: keeps the condition."""
    tape, axes = a.tape, a.axes
    dtype = ops.promoted(a.dtype, b.dtype)
    out = tape.new("xielu", axes, dtype)
    own = a.dtype, b.dtype

    def back(g: Value) -> Grads:
        zero = tape.new("zero", (), dtype)
        first = tape.new("gradient above zero", axes, dtype)
        second = tape.new("gradient below zero", axes, dtype)
        del zero
        return ops.fitted(first, axes, own[0]), ops.fitted(second, axes, own[1])

    tape.record((out,), (a, b), back, (condition,))
    return out
