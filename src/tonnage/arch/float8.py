"""torchao's ``Float8Linear``: matrices kept as they are, cast to fp8 anew for each of the three products.

Saved is the input in its own format, not in fp8. Every cast is written out by torch's own operations, through copies in
fp32; where the code is compiled, the copies fall away.

Reference: https://github.com/pytorch/ao/blob/v0.18.0/torchao/float8/ float8_linear.py, float8_training_tensor.py,
float8_utils.py, float8_ops.py, config.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Literal, Protocol

from tonnage.arch import ops
from tonnage.arch.tape import Grads, Later, Parameter, Value, needs_grad
from tonnage.record import Record
from tonnage.tensors import Axes, size

if TYPE_CHECKING:
    from tonnage.arch.model import Layer

Way = Literal["tensorwise", "rowwise", "rowwise-gw-hp"]
WAYS: Final = ("tensorwise", "rowwise", "rowwise-gw-hp")
MULTIPLE: Final = 16
"""Of which both sides of a matrix have to be one. accelerate 1.15.0 utils/ao.py, ``filter_linear_layers``."""

NONE: Axes = (("X", 1),)


class Narrow(Protocol):
    """What multiplies matrices in fp8.

    ``heads`` tells whether the matrix to the vocabulary is one of them.
    """

    heads: ClassVar[bool]

    def takes(self, name: str, ins: Axes, outs: Axes, *, transposed: bool = False) -> bool:
        """Whether the matrix of this module is converted."""
        ...

    def of_first(self, layer: Layer) -> Narrow:
        """What the first layer is multiplied by."""
        ...

    def forward(self, x: Value, weight: Parameter, bias: Parameter | None, ins: Axes, outs: Axes) -> Value:
        """The product, in the format of ``x`` or autocast's."""
        ...


class Float8(Record):
    """Which matrices are multiplied in fp8, and how they are scaled.

    Args:
        way: torchao's recipe: one scale a tensor, one a row, or one a row with the weight's gradient in 16 bit.
        skips: names of matrices below the layer that stay as they are.
        fused: the casts run in compiled kernels: copies in fp32 are not made.
    """

    way: Way = "tensorwise"
    skips: frozenset[str] = frozenset()
    fused: bool = False
    heads: ClassVar[bool] = False

    def takes(self, name: str, ins: Axes, outs: Axes, *, transposed: bool = False) -> bool:
        """Whether the matrix of this module is converted: those of ``nn.Linear`` with sides that the kernels take."""
        return fits(ins, outs) and not transposed and name not in self.skips

    def of_first(self, layer: Layer) -> Float8:
        """As accelerate converts the first layer: but for its first matrix."""
        first = next(t.name for t in layer.weights() if len(t.dims) == 2).rpartition(".")[0]
        return self.but(skips=self.skips | {first})

    def forward(self, x: Value, weight: Parameter, bias: Parameter | None, ins: Axes, outs: Axes) -> Value:
        """The product, in the format of ``x`` or autocast's."""
        y = self._product(ops.lowered(x), weight, ins, outs)
        del x
        if bias is None:
            return y
        return ops.add(y, ops.weight_in(bias, y.dtype), "with bias")

    def _product(self, x: Value, weight: Parameter, ins: Axes, outs: Axes) -> Value:
        tape, axes, form = x.tape, x.axes, x.dtype
        rows = axes[: len(axes) - len(ins)]
        tokens = size(rows)
        wide, high = size(ins), size(outs)
        matrix: Axes = (("X", high), ("X", wide))
        given = self._cast(x, (("X", tokens), ("X", wide)), tokens)
        packed = self._cast(weight, matrix, high)
        out = self._multiplied(tokens, high, (*rows, *outs), form, x)
        del given, packed
        kept = x.detached()
        makes, whole, own = needs_grad(weight), weight.axes, weight.dtype

        def back(g: Value) -> Grads:
            over, across = (("X", tokens), ("X", high)), (("X", tokens), ("X", wide))
            first = self._cast(g, over, tokens)
            second = self._cast(weight, matrix, wide, one=self.way == "rowwise-gw-hp")
            turned = [tape.new("fp8 weight, turned", matrix, "fp8_e4m3")]
            gx = self._multiplied(tokens, wide, axes, form, g, apart=True)
            gx.storage.viewed = True
            turned.clear()
            if self.way == "rowwise-gw-hp":
                gw = tape.new("weight gradient", whole, form)
                return gx, own_format(gw, own) if makes else None
            third = self._cast(g, over, high)
            fourth = self._cast(kept, across, wide)
            turned = [tape.new("fp8 operand, turned", part, "fp8_e4m3") for part in (over, across)]
            gw = self._multiplied(high, wide, whole, form, g, apart=True)
            turned.clear()
            del first, second, third, fourth
            return gx, own_format(gw, own) if makes else None

        tape.record((out,), (x, weight), back, (kept,), custom=True)
        return out

    def _cast(self, x: Value | Parameter, axes: Axes, lines: int, *, one: bool = False) -> list[Value]:
        """Values in fp8 and their scales in fp32: one, or as many as there are lines."""
        tape, dtype = x.tape, x.dtype
        lined: Axes = NONE if one or self.way == "tensorwise" else (("X", lines),)
        passing = [] if self.fused else [tape.new("absolute values", axes, dtype)]
        most = [tape.new("largest values", lined, dtype)]
        passing.clear()
        most.append(tape.new("largest values", lined, "fp64"))
        steps = [tape.new("quotient", lined, "fp64") for _ in range(1 if lined is NONE else 3)]
        scale = tape.new("scales", lined, "fp32")
        steps.clear()
        if self.way != "tensorwise":
            # Rounded down to powers of two.
            steps = [tape.new("logarithms", lined, "fp32")]
            steps.append(tape.new("rounded logarithms", lined, "fp32"))
            steps.pop(0)
            scale = tape.new("scales", lined, "fp32")
            steps.clear()
        most.clear()
        if not self.fused:
            wide = [] if dtype == "fp32" else [tape.new("values in fp32", axes, "fp32")]
            passing = [tape.new("scaled values", axes, "fp32")]
            wide.clear()
            passing.append(tape.new("clamped values", axes, "fp32"))
        packed = tape.new("values in fp8", axes, "fp8_e4m3")
        passing.clear()
        return [packed, scale]

    def _multiplied(self, rows: int, columns: int, axes: Axes, form: str, x: Value, *, apart: bool = False) -> Value:
        """``_scaled_mm``; ``apart`` scales by line behind a kernel that takes one scale."""
        tape = x.tape
        product: list[Value] = []
        if self.way == "tensorwise":
            inverse = [tape.new("inverse scale", NONE, "fp32") for _ in range(2)]
        else:
            inverse = [tape.new("inverse scales", (("X", n),), "fp32") for n in (rows, columns)]
            if apart and not self.fused:
                product = [tape.new("product of scales", (("X", rows), ("X", columns)), "fp32")]
                inverse = [tape.new("one", NONE, "fp32") for _ in range(2)]
        out = tape.product("fp8 product", axes, form)
        inverse.clear()
        product.clear()
        return out


def fits(ins: Axes, outs: Axes) -> bool:
    """Whether the kernels take a matrix of these sides."""
    return not size(ins) % MULTIPLE and not size(outs) % MULTIPLE


def own_format(g: Value, dtype: str) -> Value | Later:
    """A gradient that the engine casts when the step is done."""
    g.storage.viewed = g.dtype == dtype
    held = [g]
    return g if g.dtype == dtype else lambda: ops.cast(held.pop(), dtype)
