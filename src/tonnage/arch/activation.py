"""Activation functions as transformers computes them: by one kernel, or written out in Python.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/activations.py
"""

from __future__ import annotations

from typing import Final

from tonnage.arch import ops
from tonnage.arch.tape import Value
from tonnage.errors import UnsupportedError

_INPUT: Final = ("silu", "swish", "gelu", "gelu_pytorch_tanh", "gelu_python_tanh", "mish", "bloom_gelu")
_OUTPUT: Final = ("relu", "tanh", "sigmoid")


def activate(x: Value, act: str) -> Value:
    """The activation function that ``hidden_act`` names."""
    if act in _INPUT:
        return ops.unary(x, act)
    if act in _OUTPUT:
        return ops.unary(x, act, saves="output")
    if act in ("gelu_new", "gelu_fast"):
        return _gelu_new(x)
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
            ops.unary(
                ops.scaled(ops.add(x, ops.scaled(ops.power(x, "cube")), "x + cube")), "tanh", saves="output"
            )
        ),
        "gelu",
    )
