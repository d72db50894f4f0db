"""Outputs of layers that are held within what their format can say.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/tools/autograd/derivatives.yaml (clamp),
aten/src/ATen/native/TensorCompare.cpp (isfinite)
"""

from __future__ import annotations

from tonnage.arch.forward import Forward
from tonnage.arch.tape import Grads, Value


def clamped(x: Value, bounds: int = 2) -> Value:
    """``torch.clamp``: saves its input, and compares it with each of its bounds anew."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("clamped", axes, dtype)

    def back(g: Value) -> Grads:
        zero = tape.new("zero", (), dtype)
        within = [tape.new("within a bound", axes, "bool") for _ in range(bounds)]
        grad = tape.new("gradient of clamped", axes, dtype)
        del zero, within
        return (grad,)

    tape.record((out,), (x,), back, (x,))
    return out


def checked(x: Value) -> Value:
    """``torch.isfinite(x).all()``, of which nothing stays where all of it is."""
    same = x.tape.new("whether it is a number", x.axes, "bool")
    size_of = x.tape.new("magnitude", x.axes, x.dtype)
    bounded = x.tape.new("whether it is no infinity", x.axes, "bool")
    both = x.tape.new("whether it is finite", x.axes, "bool")
    del same, size_of, bounded, both
    return x


def within_bounds(f: Forward, x: Value) -> Value:
    """A sum in fp16, held below the format's largest number, and a little lower where anything is infinite.

    Whether anything is: by absolute values that are compared. The bounds are two numbers in fp32, which are saved.

    Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/t5/modeling_t5.py
    (``T5Block``); torch v2.13.0 aten/src/ATen/native/TensorCompare.cpp (``isinf``), tools/autograd/derivatives.yaml and
    torch/csrc/autograd/FunctionsManual.cpp (``clamp_backward``).
    """
    tape, axes = x.tape, x.axes
    magnitudes = tape.new("absolute values", axes, x.dtype)
    infinite = tape.new("infinite", axes, "bool")
    del magnitudes
    any_of_them = tape.new("anything infinite", (), "bool")
    del infinite
    high = tape.new("upper bound", (), "fp32")
    del any_of_them
    low = tape.new("lower bound", (), "fp32")
    out = tape.new("residual stream", axes, x.dtype)

    def back(g: Value) -> Grads:
        zero = tape.new("zero", (), g.dtype)
        above = tape.new("above the lower bound", axes, "bool")
        below = tape.new("below the upper bound", axes, "bool")
        del below
        made = tape.new("gradient within bounds", axes, g.dtype)
        del zero, above
        return (made,)

    tape.record((out,), (x,), back, (x, low, high))
    # The block's code names the upper bound until it returns.
    f.held.append(high)
    return out
