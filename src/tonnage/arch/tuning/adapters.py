"""Matrices that are not run as they stand: packed ones, and frozen ones with something trained beside them.

Reference: https://github.com/bitsandbytes-foundation/bitsandbytes/blob/0.50.2/bitsandbytes/autograd/_functions.py
(MatMul4Bit, MatMul8bitLt) and nn/modules.py (Linear4bit, Linear8bitLt)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Grads, Value, needs_grad
from tonnage.record import Record
from tonnage.tensors import Axes, size

if TYPE_CHECKING:
    from tonnage.arch.layers import Linear
    from tonnage.arch.model import Layer
    from tonnage.arch.tuning.bottleneck import Bottleneck
    from tonnage.arch.tuning.merged import Merge
    from tonnage.arch.tuning.prefix import Prefix
    from tonnage.arch.tuning.prompted import Prompted
    from tonnage.arch.tuning.rows import Rows
    from tonnage.arch.tuning.tuners import Method
    from tonnage.arch.tuning.virtual import Virtual


FUSED_ROWS = 4
"""Rows up to which a kernel reads packed values on every device, when no gradient flows.

bitsandbytes 0.50.2 backends/cuda/ops.py, ``_GEMM_4BIT_CUSTOM_FLOOR_M``.
"""


class FourBit(Record):
    """Matrices stored in 4 bit, which bitsandbytes unpacks for every product.

    Args:
        modules: their names below the layer.
        dtype: format that the product is computed in, and that the matrix is unpacked to for it.
        stored: format of the matrix before it was packed, to which the backward pass unpacks it before it is cast.
        nested: elements that share one scale, where the scales are quantized themselves; 0 where they are not.
        keeps: the product keeps what it is given, and the matrix was packed from fp16, to which it is unpacked before
            it is cast: bitsandbytes before 0.43.2 (0.42.0, autograd/_functions.py, ``ctx.tensors = (A, B)``;
            nn/modules.py, ``Params4bit.cuda``, ``half()``). They are attributes of the function, which die with it:
            where the loop still names the last loss, in the next forward pass.
    """

    modules: frozenset[str]
    dtype: str
    stored: str
    nested: int = 0
    keeps: bool = False
    copies: ClassVar[bool] = True

    def forward(self, f: Forward, linear: Linear, x: Value) -> Value:
        """The product, in the format of ``x``."""
        before = x.dtype
        x = ops.cast(x, self.dtype)
        return ops.cast(self._product(f, linear, x), before)

    def whole(self, f: Forward, linear: Linear, dtype: str) -> Value:
        """The matrix unpacked, outside a product (``dequantize_4bit``)."""
        matrix: Axes = linear.outs + linear.ins
        scales: Axes = (("X", -(-size(matrix) // self.nested)),) if self.nested else ()
        wide = f.tape.new("unpacked scales", scales, "fp32") if scales else None
        unpacked = f.tape.new("unpacked matrix", matrix, dtype)
        del wide
        return unpacked

    def _product(self, f: Forward, linear: Linear, x: Value) -> Value:
        tape, inner, form = x.tape, x.axes, x.dtype
        matrix: Axes = linear.outs + linear.ins
        rows = inner[: len(inner) - len(linear.ins)]
        scales: Axes = (("X", -(-size(matrix) // self.nested)),) if self.nested else ()
        flows = needs_grad(x)

        def unpacked() -> Value:
            """The matrix in the format it had, whose scales are gone by then, and cast."""
            wide = tape.new("unpacked scales", scales, "fp32") if scales else None
            first = [tape.new("unpacked matrix", matrix, "fp16" if self.keeps else self.stored)]
            del wide
            return ops.cast(first.pop(), form)

        passing = []
        if flows or size(rows) > FUSED_ROWS:
            # Too many rows for the kernel that reads packed values: the matrix is unpacked whole, after its scales.
            passing = [tape.new("unpacked scales", scales, "fp32") for _ in range(0 if self.keeps else 2) if scales]
            passing.append(unpacked() if self.keeps else tape.new("unpacked matrix", matrix, form))
        out = tape.product(f"{linear.name} output", rows + linear.outs, form)
        passing.clear()

        def back(g: Value) -> Grads:
            whole = unpacked()
            grad = tape.product("input gradient", inner, form)
            del whole
            return (grad,)

        if flows and self.keeps and tape.recording:
            tape.lingering.append(x.storage)
        if flows:
            tape.record((out,), (x,), back, (x,) if self.keeps else (), custom=self.keeps)
        return out


class EightBit(Record):
    """Matrices of a byte an element, which bitsandbytes multiplies by activations of a byte (LLM.int8()).

    Args:
        modules: their names below the layer.

    Leaves out: the columns of outliers, which depend on the data.
    """

    modules: frozenset[str]
    copies: ClassVar[bool] = False

    def whole(self, f: Forward, linear: Linear, dtype: str) -> Value:
        """The matrix unpacked, outside a product."""
        return f.tape.new("unpacked matrix", linear.outs + linear.ins, dtype)

    def forward(self, f: Forward, linear: Linear, x: Value) -> Value:
        """The product, in the format of ``x``.

        Where a gradient may flow, ``x`` is held by the function itself (``ctx.tensors``), which dies with the graph:
        no step of the backward pass lets go of it, and no checkpoint does without.
        """
        tape, inner, form = x.tape, x.axes, x.dtype
        rows, matrix = inner[: len(inner) - len(linear.ins)], linear.outs + linear.ins
        flows = needs_grad(x)
        tape.given.setdefault(linear.name, set()).add(form)
        if tape.grad and (flows or not tape.recording):
            tape.hold(x)
        half = [ops.cast(x.detached(), "fp16")]
        scales = tape.new("scales of rows", rows, "fp32")
        packed = tape.new("activations in int8", inner, "int8")
        absolute = [tape.new("absolute values", inner, "fp16")]
        outliers = tape.new("outliers", inner, "bool")
        absolute.clear()
        half.clear()
        del outliers
        # The kernel's own handle: it takes no workspace of torch's.
        sums = tape.new(f"{linear.name} sums", rows + linear.outs, "int32")
        made = [tape.new(f"{linear.name} output", rows + linear.outs, "fp16")]
        out = ops.cast(made.pop(), form)
        del sums, packed, scales

        def back(g: Value) -> Grads:
            unpacked = tape.new("unpacked matrix", matrix, form)
            scales = tape.new("scales of the matrix", linear.outs, "fp32")
            del scales
            grad = tape.product("input gradient", inner, form)
            del unpacked
            return (grad,)

        if flows:
            tape.record((out,), (x,), back, (), custom=True)
        return out


Packed = FourBit | EightBit


def packed(how: str, modules: frozenset[str], dtype: str, stored: str, nested: int) -> Packed:
    """Packed matrices by how their products run: "unpacks" each whole, or "multiplies bytes".

    ``stored`` is their format before they were packed, ``dtype`` that of the products.
    """
    return FourBit(modules, dtype, stored, nested) if how == "unpacks" else EightBit(modules)


class Trained(Record):
    """Weights of the model itself that are trained while the others are frozen.

    Args:
        ends: names of those before and behind the layers.
        layers: for each layer, the names of its own below it.
        copied: trained in copies beside the frozen ones, which a tied head is not tied to.
    """

    ends: frozenset[str]
    layers: tuple[frozenset[str], ...]
    copied: bool = False


class Tuning(Record):
    """What is done to the matrices of a model that is fine-tuned.

    Args:
        packed: those that are stored packed; None for none.
        method: what is trained beside them; None for nothing.
        own: which of the model's own weights are trained; None for none.
        virtual: trained tokens before each sequence, or keys and values before each layer's; None for none.
        rows: rows of the embedding that are trained; None for none.
        prompted: prompts that attention sees apart; None for none.
        bottleneck: adapters between blocks and residual stream; None for none.
    """

    packed: Packed | None = None
    method: Method | None = None
    own: Trained | None = None
    virtual: Virtual | Prefix | None = None
    rows: Rows | None = None
    prompted: Prompted | None = None
    bottleneck: Bottleneck | None = None

    @property
    def early(self) -> tuple[str, ...]:
        """Ends of the names of parameters whose gradient is made before the backward pass comes to the model."""
        return () if self.method is None else self.method.early

    def prompts(self, layer: int) -> Prompted | None:
        """What the attention of this layer sees apart."""
        return self.prompted if self.prompted is not None and layer >= self.prompted.first else None

    def banks(self, layer: Layer) -> frozenset[str]:
        """The parameters that this layer shares with others."""
        bank = getattr(self.method, "bank", None)
        if bank is None:
            return frozenset()
        modules = {t.name.rpartition(".")[0] for t in layer.weights()}
        return frozenset(bank(name) for name in modules & self.method.modules)  # type: ignore[union-attr]

    def adapts(self, name: str) -> bool:
        """Whether something is trained beside the matrix of this name."""
        return self.method is not None and name in self.method.modules

    def forward(self, f: Forward, linear: Linear, x: Value) -> Value:
        """One matrix as it is run."""
        if self.method is None or linear.name not in self.method.modules:
            return self._frozen(f, linear, x)
        packed = self.packed if self.packed is not None and linear.name in self.packed.modules else None
        return self.method.forward(f, linear, x, self._frozen, packed)

    def merged(self, f: Forward, tensors: Sequence[tuple[str, Axes]]) -> dict[str, Merge]:
        """What stands for stacked matrices that have adapters, by name; empty where none has."""
        stacked = getattr(self.method, "stacked", None)
        return self.method.merged(f, tensors) if stacked else {}  # type: ignore[union-attr]

    def alone(self, f: Forward, name: str, outs: Axes, ins: Axes) -> Value | None:
        """A router's matrix with its adapters' product added; None where it has none."""
        if name not in getattr(self.method, "stacked", ()):
            return None
        from tonnage.arch.tuning.merged import plain

        return plain(f, name, outs, ins, self.method.rank, self.method.dtype)  # type: ignore[union-attr]

    def _frozen(self, f: Forward, linear: Linear, x: Value) -> Value:
        if self.packed is not None and linear.name in self.packed.modules:
            return self.packed.forward(f, linear, x)
        return linear.plain(f, x)


def adapter_elements(ins: int, outs: int, rank: int) -> int:
    """Trained elements beside a matrix.

    >>> adapter_elements(4096, 1024, 16)
    81920
    """
    return size((("R", rank), ("X", ins))) + size((("X", outs), ("R", rank)))
