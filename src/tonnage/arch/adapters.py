"""Matrices that are not run as they stand: packed ones, and frozen ones with a low-rank adapter beside them.

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/lora/layer.py and bnb.py (forward);
https://github.com/bitsandbytes-foundation/bitsandbytes/blob/0.50.2/bitsandbytes/autograd/_functions.py (MatMul4Bit,
MatMul8bitLt) and nn/modules.py (Linear4bit, Linear8bitLt)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Grads, Parameter, Value, needs_grad
from tonnage.record import Record
from tonnage.tensors import Axes, size

if TYPE_CHECKING:
    from tonnage.arch.layers import Linear


FUSED_ROWS = 4
"""Rows up to which a kernel reads packed values on every device, when no gradient flows.

bitsandbytes 0.50.2 backends/cuda/ops.py, ``_GEMM_4BIT_CUSTOM_FLOOR_M``.
"""


class FourBit(Record):
    """Matrices stored in 4 bit, which bitsandbytes unpacks for every product.

    Args:
        modules: their names below the layer.
        dtype: format that the product is computed in, and that the matrix is unpacked to.
        nested: elements that share one scale, where the scales are quantized themselves; 0 where they are not.
    """

    modules: frozenset[str]
    dtype: str
    nested: int = 0
    copies: ClassVar[bool] = True

    def forward(self, f: Forward, linear: Linear, x: Value) -> Value:
        """The product, in the format of ``x``."""
        before = x.dtype
        x = ops.cast(x, self.dtype)
        return ops.cast(self._product(f, linear, x), before)

    def _product(self, f: Forward, linear: Linear, x: Value) -> Value:
        tape, inner, form = x.tape, x.axes, x.dtype
        matrix: Axes = linear.outs + linear.ins
        rows = inner[: len(inner) - len(linear.ins)]
        scales: Axes = (("X", -(-size(matrix) // self.nested)),) if self.nested else ()
        flows = needs_grad(x)
        passing = []
        if flows or size(rows) > FUSED_ROWS:
            # Too many rows for the kernel that reads packed values: the matrix is unpacked whole, after its scales.
            passing = [tape.new("unpacked scales", scales, "fp32") for _ in range(2) if scales]
            passing.append(tape.new("unpacked matrix", matrix, form))
        out = tape.new(f"{linear.name} output", rows + linear.outs, form)
        passing.clear()

        def back(g: Value) -> Grads:
            wide = tape.new("unpacked scales", scales, "fp32") if scales else None
            unpacked = tape.new("unpacked matrix", matrix, form)
            del wide
            grad = tape.new("input gradient", inner, form)
            del unpacked
            return (grad,)

        if flows:
            tape.record((out,), (x,), back, ())
        return out


class EightBit(Record):
    """Matrices of a byte an element, which bitsandbytes multiplies by activations of a byte (LLM.int8()).

    Args:
        modules: their names below the layer.

    Leaves out: the columns of outliers, which depend on the data.
    """

    modules: frozenset[str]
    copies: ClassVar[bool] = False

    def forward(self, f: Forward, linear: Linear, x: Value) -> Value:
        """The product, in the format of ``x``, which is kept whenever a gradient flows."""
        tape, inner, form = x.tape, x.axes, x.dtype
        rows, matrix = inner[: len(inner) - len(linear.ins)], linear.outs + linear.ins
        half = [ops.cast(x.detached(), "fp16")]
        scales = tape.new("scales of rows", rows, "fp32")
        packed = tape.new("activations in int8", inner, "int8")
        absolute = [tape.new("absolute values", inner, "fp16")]
        outliers = tape.new("outliers", inner, "bool")
        absolute.clear()
        half.clear()
        del outliers
        sums = tape.new(f"{linear.name} sums", rows + linear.outs, "int32")
        made = [tape.new(f"{linear.name} output", rows + linear.outs, "fp16")]
        out = ops.cast(made.pop(), form)
        del sums, packed, scales
        flows = needs_grad(x)

        def back(g: Value) -> Grads:
            unpacked = tape.new("unpacked matrix", matrix, form)
            grad = tape.new("input gradient", inner, form)
            del unpacked
            return (grad,)

        if flows:
            tape.record((out,), (x,), back, (x,))
        return out


Packed = FourBit | EightBit


def packed(how: str, modules: frozenset[str], dtype: str, nested: int) -> Packed:
    """Packed matrices by how their products run: "unpacks" each whole, or "multiplies bytes"."""
    return FourBit(modules, dtype, nested) if how == "unpacks" else EightBit(modules)


class LoRA(Record):
    """Low-rank adapters (arXiv:2106.09685): ``y + s B(A(x))`` beside frozen matrices.

    Args:
        modules: names of the adapted matrices below the layer.
        rank: of the adapters.
        dropout: of their input.
        dtype: their format.
    """

    modules: frozenset[str]
    rank: int
    dropout: float
    dtype: str

    def forward(self, f: Forward, linear: Linear, x: Value, made: list[Value], packed: Packed | None) -> Value:
        """The frozen matrix's output with the adapter's added.

        Args:
            f: the pass.
            linear: the frozen matrix.
            x: what it was given.
            made: what it made, handed over: the list is emptied, so that nobody else keeps it alive.
            packed: how it is packed, so that the adapter's output is cast before they are added, and the matrix's
                copied first where it is of 4 bit.
        """
        y = made.pop()
        tape, before = x.tape, y.dtype
        if packed is not None and packed.copies:
            y = ops.copy(y)
        converts = packed is None or tape.autocast is None
        if converts:
            x = ops.cast(x, self.dtype)
        inner: Axes = (("R", self.rank),)
        a = Parameter(tape, f"{linear.name}.lora_A.weight", inner + linear.ins, self.dtype, tape.grad)
        b = Parameter(tape, f"{linear.name}.lora_B.weight", linear.outs + inner, self.dtype, tape.grad)
        low = ops.linear(ops.dropout(x, self.dropout, f.training), a, None, len(linear.ins), inner)
        added = ops.linear(low, b, None, 1, linear.outs)
        del low
        added = ops.scaled(added)
        if packed is not None and converts:
            added = ops.cast(added, before)
        y = ops.add(y, added)
        if packed is not None:
            return y
        del added
        return ops.cast(y, before)


class Tuning(Record):
    """What is done to the matrices of a model that is fine-tuned.

    Args:
        packed: those that are stored packed; None for none.
        lora: those that have adapters; None for none.
    """

    packed: Packed | None = None
    lora: LoRA | None = None

    def forward(self, f: Forward, linear: Linear, x: Value) -> Value:
        """One matrix as it is run."""
        packed = self.packed if self.packed is not None and linear.name in self.packed.modules else None
        made = [linear.plain(f, x) if packed is None else packed.forward(f, linear, x)]
        if self.lora is None or linear.name not in self.lora.modules:
            return made.pop()
        return self.lora.forward(f, linear, x, made, packed)


def adapter_elements(ins: int, outs: int, rank: int) -> int:
    """Trained elements beside a matrix.

    >>> adapter_elements(4096, 1024, 16)
    81920
    """
    return size((("R", rank), ("X", ins))) + size((("X", outs), ("R", rank)))
