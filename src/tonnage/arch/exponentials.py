"""Softmax written out: logarithms of sums of exponentials, exponentials, and scores that a mask picks.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/ tools/autograd/derivatives.yaml (exp, logsumexp, where),
aten/src/ATen/native/ReduceOps.cpp (logsumexp_out_impl)
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.tape import WIDTH, Grads, Value
from tonnage.tensors import Axes, size


def log_sum_exp(x: Value, axes: Axes | None = None) -> Value:
    """``torch.logsumexp``: keeps its input and its result; exponentials of all scores pass.

    Args:
        x: what is summed, over its last axis but where ``axes`` say otherwise.
        axes: of the result.
    """
    x = ops.raised(x)
    tape, whole, dtype = x.tape, x.axes, x.dtype
    out = tape.new("log-sum-exp", whole[:-1] if axes is None else axes, dtype)
    tape.scratch("exponentials", size(whole) * WIDTH[dtype])

    def back(g: Value) -> Grads:
        below = tape.new("scores below log-sum-exp", whole, dtype)
        weights = tape.new("weights", whole, dtype)
        grad = tape.new("gradient of log-sum-exp", whole, dtype)
        del below, weights
        return (grad,)

    tape.record((out,), (x,), back, (x, out))
    return out


def exp(x: Value, label: str = "exponentials") -> Value:
    """``torch.exp``: saves its result."""
    return ops.unary(ops.raised(x), label, saves="output")


def picked(mask: Value, x: Value, label: str = "masked scores") -> Value:
    """``torch.where(mask, x, number)``: keeps the mask; its gradient is picked from a number made for that."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new(label, axes, dtype)

    def back(g: Value) -> Grads:
        zero = tape.new("zero", (("X", 1),), dtype)
        grad = tape.new(f"gradient of {label}", axes, dtype)
        del zero
        return (grad,)

    tape.record((out,), (x,), back, (mask,))
    return out
