"""Transformer Engine's ``Linear``: inputs and weights kept in fp8, as far as they lie in memory both ways.

A product takes its operands row by row only, on Hopper and before; what the backward pass multiplies is therefore cast
into a second, transposed copy. Of the input that copy alone is saved; of the weight, both.

Scaling by blocks takes a copy and scales of its own each way: MXFP8 an exponent of a byte for every 32 elements along
the product, blockwise fp8 a scale in fp32 for 1 x 128 elements of inputs and gradients and for 128 x 128 of weights.

Reference: https://github.com/NVIDIA/TransformerEngine/blob/v2.9/transformer_engine/pytorch/ module/linear.py
(``_Linear``), module/base.py (``get_cublas_workspace_size_bytes``), quantization.py (``DelayedScalingRecipeState``,
``MXFP8BlockScalingRecipeState``), tensor/mxfp8_tensor.py and tensor/float8_blockwise_tensor.py (``make_empty``)

Leaves out: what its kernels take for themselves, and scales laid out anew for a product; weights kept in fp8 over
several passes (``is_first_microbatch``); Blackwell, where a per-tensor product takes operands either way. Its kernels
run on a device only, so that no trace has confirmed it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Literal

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


Blocks = Literal["", "mxfp8", "block"]
"""What shares a scale: a tensor, or a block."""
EXPONENT: Final = 32
"""Elements that share one in MXFP8, of which both sides have to be a multiple."""
BLOCK: Final = 128


class TransformerEngine(Record):
    """Products in fp8, scaled by tensor or by block.

    Args:
        delayed: scales follow from the largest values of steps before; else they are taken anew.
        blocks: what shares a scale.
    """

    delayed: bool = True
    blocks: Blocks = ""
    heads: ClassVar[bool] = True

    def takes(self, name: str, ins: Axes, outs: Axes, *, transposed: bool = False) -> bool:
        """Whether the matrix of this module is converted."""
        return fits(ins, outs) and not transposed

    def of_first(self, layer: Layer) -> TransformerEngine:
        """As every other."""
        return self

    def beside(self, modules: int, workspace: int) -> tuple[tuple[int, int], ...]:
        """Bytes of a tensor that lies beside the weights, and how often. [byte]"""
        if self.blocks:
            # Scales by block are made with the values, and nothing of them is kept.
            return ((workspace, 1),)
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
        tokens: Axes = (("X", size(rows)), ("X", size(ins)))
        given = self._packed(tape.new("input in fp8", axes, "fp8_e4m3"), tokens)
        turned = self._packed(tape.new("input in fp8, turned", axes, "fp8_e4m3"), tokens, turned=True) if makes else []
        packed = self._packed(tape.new("weight in fp8", matrix, "fp8_e4m3"), matrix, square=True)
        if flows:
            both = tape.new("weight in fp8, turned", matrix, "fp8_e4m3")
            # One scale stands for both copies, where there is one.
            packed += self._packed(both, matrix, turned=True, square=True) if self.blocks else [both]
            del both
        added = ops.weight_in(bias, form) if bias is not None else None
        out = tape.new("fp8 product", (*rows, *outs), form)
        given.clear()
        del added
        whole, sums = weight.axes, bias is not None and needs_grad(bias)

        def back(g: Value) -> Grads:
            form_of = "fp8_e4m3" if self.blocks else "fp8_e5m2"
            lines: Axes = (("X", size(rows)), ("X", size(outs)))
            held = self._packed(tape.new("gradient in fp8", g.axes, form_of), lines)
            both = tape.new("gradient in fp8, turned", g.axes, form_of)
            held += self._packed(both, lines, turned=True) if self.blocks else [both]
            del both
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

    def _packed(self, values: Value, axes: Axes, *, turned: bool = False, square: bool = False) -> list[Value]:
        """Values in fp8 with the inverse of their scales, in the shapes that the products want."""
        tape, (rows, columns) = values.tape, (size(axes[:1]), size(axes[1:]))
        if not self.blocks:
            return [values, tape.new("inverse scale", NONE, "fp32")]
        if self.blocks == "mxfp8":
            sides = (
                (_up(rows // EXPONENT, 4), _up(columns, 128))
                if turned
                else (_up(rows, 128), _up(columns // EXPONENT, 4))
            )
            return [values, tape.new("exponents", tuple(("X", n) for n in sides), "uint8")]
        rows, columns = (columns, rows) if turned else (rows, columns)
        across = -(-columns // BLOCK)
        sides = (-(-rows // BLOCK), _up(across, 4)) if square else (across, _up(rows, 4))
        return [values, tape.new("inverse scales", tuple(("X", n) for n in sides), "fp32")]


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def workspace(architecture: str) -> int:
    """What is taken once for matrix products on a device of an architecture, Hopper where none is named. [byte]"""
    digits = architecture.removeprefix("sm_").rstrip("abcdef")
    wide = not digits.isdigit() or int(digits) >= 90
    return HOPPER if wide else OLDER
