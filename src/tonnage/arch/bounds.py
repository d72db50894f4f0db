"""Outputs of layers that are held within what their format can say.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/tools/autograd/derivatives.yaml (clamp),
aten/src/ATen/native/TensorCompare.cpp (isfinite)
"""

from __future__ import annotations

from tonnage.arch.tape import Grads, Value


def clamped(x: Value) -> Value:
    """``torch.clamp(x, min, max)``: saves its input, and compares it with each bound anew."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("clamped", axes, dtype)

    def back(g: Value) -> Grads:
        zero = tape.new("zero", (), dtype)
        within = [tape.new("within a bound", axes, "bool") for _ in range(2)]
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
