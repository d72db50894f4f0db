"""Matrices of a byte an element that are trained: unpacked whole for each product, as Q-GaLore's ``W8Linear`` does.

Their gradients are tensors in the format of the input, which autograd does not know of: the backward pass of a product
leaves one, or has the matrix stepped, before it is over.

Reference: https://github.com/VITA-Group/Q-GaLore/blob/5bd2f1c/q_galore_torch/utils/quantization.py (``W8Linear``,
``QGaLoreLinear``)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from tonnage.arch.reductions import scratch
from tonnage.arch.tape import Grads, Parameter, Value, needs_grad
from tonnage.record import Record
from tonnage.tensors import Axes, size

if TYPE_CHECKING:
    from tonnage.arch.model import Layer


class Int8(Record):
    """Which matrices lie in a byte an element.

    Args:
        packs: by the module's name.
    """

    packs: Callable[[str], bool]
    heads: ClassVar[bool] = False

    def takes(self, name: str, ins: Axes, outs: Axes, *, transposed: bool = False) -> bool:
        """Whether the matrix of this module is packed: those of ``nn.Linear``."""
        return not transposed and self.packs(name)

    def of_first(self, layer: Layer) -> Int8:
        """As every other."""
        return self

    def forward(self, x: Value, weight: Parameter, bias: Parameter | None, ins: Axes, outs: Axes) -> Value:
        """The product in the format of ``x``, and the bias added by an operation of its own."""
        tape, axes, form = x.tape, x.axes, x.dtype
        rows = axes[: len(axes) - len(ins)]
        unpacked = tape.new("unpacked matrix", weight.axes, form)
        out = tape.product(f"{weight.name} output", rows + outs, form)
        if bias is not None:
            out = tape.new("with bias", rows + outs, form)
        del unpacked
        kept, sums = x.detached(), bias is not None and needs_grad(bias)

        def back(g: Value) -> Grads:
            unpacked = tape.new("unpacked matrix", weight.axes, form)
            gx = tape.product("input gradient", axes, form)
            del unpacked
            gx.storage.viewed = len(rows) > 1
            gb = tape.new("bias gradient", outs, form) if sums else None
            if sums:
                tape.scratch("partial sums", *scratch(size(rows), size(outs)))
            grown: list[Value | None] = [tape.product("weight gradient", weight.axes, form)]
            tape.keep(weight, grown)
            return gx, gb

        tape.record((out,), (x, bias), back, (kept,), custom=True)
        return out
