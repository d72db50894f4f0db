"""Transformer Engine's ``Linear``: inputs and weights kept in fp8, as far as they lie in memory both ways.

A product takes its operands row by row only, on Hopper and before; what the backward pass multiplies is therefore cast
into a second, transposed copy. Of the input that copy alone is saved; of the weight, both.

Reference: https://github.com/NVIDIA/TransformerEngine/blob/v2.9/transformer_engine/pytorch/ module/linear.py
(``_Linear``), module/base.py (``get_cublas_workspace_size_bytes``), fp8.py (``DelayedScalingRecipeState``)

Leaves out: what its kernels take for themselves; weights kept in fp8 over several passes (``is_first_microbatch``);
Blackwell, where a per-tensor product takes operands either way. Its kernels run on a device only, so that no trace has
confirmed it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from tonnage.arch import ops
from tonnage.arch.float8 import NONE, fits, own_format
from tonnage.arch.tape import Grads, Parameter, Value, needs_grad
from tonnage.record import Record
from tonnage.tensors import Axes, size

if TYPE_CHECKING:
    from tonnage.arch.model import Layer

HISTORY: Final = 1024
"""Steps that delayed scaling looks back. accelerate 1.15.0 utils/dataclasses.py, ``TERecipeKwargs``."""
HOPPER: Final = 33_555_456
OLDER: Final = 4_194_304
"""Bytes that are taken once for matrix products, from Hopper on and before."""
FORWARD, BACKWARD = 3, 2
"""Tensors of a module that have a scale: input, weight and output; their gradients but for one."""


class TransformerEngine(Record):
    """Per-tensor scaling.

    Args:
        delayed: scales follow from the largest values of steps before; else they are taken anew.
    """

    delayed: bool = True
    heads: ClassVar[bool] = True

    def takes(self, name: str, ins: Axes, outs: Axes, *, transposed: bool = False) -> bool:
        """Whether the matrix of this module is converted."""
        return fits(ins, outs) and not transposed

    def of_first(self, layer: Layer) -> TransformerEngine:
        """As every other."""
        return self

    def beside(self, modules: int, workspace: int) -> tuple[tuple[int, int], ...]:
        """Bytes of a tensor that lies beside the weights, and how often. [byte]"""
        states = [(4 * n, modules) for n in (FORWARD, BACKWARD)]
        states += [(4 * HISTORY * n, modules) for n in (FORWARD, BACKWARD)] if self.delayed else states
        return (*states, (workspace, 1))

    def forward(self, x: Value, weight: Parameter, bias: Parameter | None, ins: Axes, outs: Axes) -> Value:
        """The product, in the format of ``x`` or autocast's, with the bias in it."""
        tape, axes, before = x.tape, x.axes, x.dtype
        form = tape.autocast or before
        rows = axes[: len(axes) - len(ins)]
        matrix: Axes = (("X", size(outs)), ("X", size(ins)))
        flows, makes, own = needs_grad(x), needs_grad(weight), weight.dtype
        given = _packed(tape.new("input in fp8", axes, "fp8_e4m3"))
        turned = _packed(tape.new("input in fp8, turned", axes, "fp8_e4m3")) if makes else []
        packed = _packed(tape.new("weight in fp8", matrix, "fp8_e4m3"))
        packed += [tape.new("weight in fp8, turned", matrix, "fp8_e4m3")] if flows else []
        added = ops.weight_in(bias, form) if bias is not None else None
        out = tape.new("fp8 product", (*rows, *outs), form)
        given.clear()
        del added
        whole, sums = weight.axes, bias is not None and needs_grad(bias)

        def back(g: Value) -> Grads:
            held = _packed(tape.new("gradient in fp8", g.axes, "fp8_e5m2"))
            held.append(tape.new("gradient in fp8, turned", g.axes, "fp8_e5m2"))
            gb = tape.new("bias gradient", outs, form) if sums else None
            gx = tape.new("input gradient", axes, form) if flows else None
            gw = tape.new("weight gradient", whole, form) if makes else None
            held.clear()
            return (
                None if gx is None else own_format(gx, before),
                None if gw is None else own_format(gw, own),
                None if gb is None else own_format(gb, own),
            )

        tape.record((out,), (x, weight, bias), back, (*turned, *packed), custom=True)
        return out


def _packed(values: Value) -> list[Value]:
    """Values in fp8 with the inverse of their scale."""
    return [values, values.tape.new("inverse scale", NONE, "fp32")]


def workspace(architecture: str) -> int:
    """What is taken once for matrix products on a device of an architecture, Hopper where none is named. [byte]"""
    digits = architecture.removeprefix("sm_").rstrip("abcdef")
    wide = not digits.isdigit() or int(digits) >= 90
    return HOPPER if wide else OLDER
