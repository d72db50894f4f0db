"""Activation functions as transformers computes them: by one kernel, or written out in Python.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/activations.py
"""

from __future__ import annotations

from typing import Final

from tonnage.arch import ops
from tonnage.arch.tape import Grads, Value
from tonnage.errors import UnsupportedError

_INPUT: Final = ("silu", "swish", "gelu", "gelu_pytorch_tanh", "gelu_python_tanh", "mish")
_OUTPUT: Final = ("relu", "tanh", "sigmoid")


def activate(x: Value, act: str) -> Value:
    """The activation function that ``hidden_act`` names."""
    if act in _INPUT:
        return ops.unary(x, act)
    if act in _OUTPUT:
        return ops.unary(x, act, saves="output")
    if act in ("gelu_new", "gelu_fast"):
        return _gelu_new(x)
    if act == "bloom_gelu":
        return _bloom_gelu(x)
    if act == "quick_gelu":
        return ops.mul(x, ops.unary(ops.scaled(x), "sigmoid", saves="output"), "quick gelu")
    if act == "relu2":
        return ops.power(ops.unary(x, "relu", saves="output"))
    raise UnsupportedError(
        f"the activation function {act!r} is not modelled yet",
        key="hidden_act",
        value=act,
        hint="parameters, weights and cache can still be told: tonnage params",
    )


def _gelu_new(x: Value) -> Value:
    """``0.5 * x * (1 + tanh(c * (x + 0.044715 * x**3)))``, written out: five tensors are kept."""
    half = ops.scaled(x, "half of x")
    # Nested as in the modelled code, so that no name keeps a part longer than its use.
    return ops.mul(
        half,
        ops.shifted(
            ops.unary(ops.scaled(ops.add(x, ops.scaled(ops.power(x, "cube")), "x + cube")), "tanh", saves="output")
        ),
        "gelu",
    )


def _bloom_gelu(x: Value) -> Value:
    """BLOOM's own function: only its input is kept, but both directions are written out in elementwise steps."""
    tape, axes, dtype = x.tape, x.axes, x.dtype

    def step(*parts: Value) -> Value:
        return tape.new("step of gelu", axes, dtype)

    def tanh() -> Value:
        # tanh(c * x * (1 + 0.044715 * x * x))
        return step(step(step(), step(step(step()))))

    def back(g: Value) -> Grads:
        curve = tanh()
        slope = step(step(step(), step(step(step(curve)), step(step(step())))), step(step(curve)))
        return (step(slope),)

    out = step(step(), step(tanh()))
    tape.record((out,), (x,), back, (x,))
    return out
