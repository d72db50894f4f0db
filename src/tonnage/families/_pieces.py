"""Short names for what many encoders and decoders are put together from."""

from __future__ import annotations

from typing import Final

from tonnage.arch.layers import Linear, Norm
from tonnage.arch.parts import Loose, Part, Parts
from tonnage.tensors import Axis, Role, Tensor

FORMATS: Final = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""Formats as configs name torch's."""


def matrix(name: str, ins: Axis, outs: Axis, role: Role, *, bias: bool = True) -> Linear:
    """A matrix from one axis to another."""
    return Linear(name, (ins,), (outs,), role, bias)


def layer_norm(name: str, D: int, *, bias: bool = True) -> Norm:
    """``nn.LayerNorm`` over ``D`` elements."""
    return Norm(name, (("D", D),), "layer", bias=bias)


def counted(what: str, *parts: Part | Tensor) -> Parts:
    """A block of these parts, for which a pass is refused: ``what`` says whose."""
    return Parts(what=what, parts=tuple(Loose((p,)) if isinstance(p, Tensor) else p for p in parts))
