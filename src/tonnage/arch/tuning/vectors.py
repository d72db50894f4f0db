"""Changes by trained vectors, and by convolution with them, as peft's own forward passes write them.

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/ road/layer.py (_apply_road), c3a/layer.py
(C3ALinear) and c3a/utils.py (BlockCircularConvolution)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Grads, Parameter, Value, needs_grad
from tonnage.arch.tuning import matrices
from tonnage.arch.tuning.tuners import Beside, Frozen
from tonnage.record import Record
from tonnage.tensors import Axes, size

if TYPE_CHECKING:
    from tonnage.arch.layers import Linear
    from tonnage.arch.tuning.adapters import Packed


class RoAd(Record):
    """Pairs of outputs, turned and stretched (arXiv:2409.00119).

    Args:
        modules: names of the adapted matrices below the layer.
        dtype: of angles and lengths.
        each: every output has its own (``road_2``), not every pair (``road_1``).
    """

    modules: frozenset[str]
    dtype: str
    each: bool = False
    early: ClassVar[tuple[str, ...]] = ()

    def _axes(self, outs: Axes) -> Axes:
        return (("X", size(outs) if self.each else size(outs) // 2),)

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """Angles and lengths."""
        return ("road_theta", self._axes(outs)), ("road_alpha", self._axes(outs))

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """None."""
        return ()

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen output, turned."""
        y = frozen(f, linear, x)
        before = y.dtype
        y = ops.cast(y, self.dtype)
        y = self._turned(f, linear, y)
        return ops.cast(y, before)

    def _turned(self, f: Forward, linear: Linear, x: Value) -> Value:
        first, second = self._columns(f, linear)
        rows, outs = x.axes[: len(x.axes) - len(linear.outs)], linear.outs
        half: Axes = (*rows, ("X", size(outs) // 2))
        left, right = ops.narrow(x, half), ops.narrow(x, half)
        parts = [ops.scaled(right, "negated half")]
        turned = ops.cat((parts[0], left), x.axes, "turned by a quarter")
        parts.clear()
        products = [ops.mul(x, first, "along", axes=x.axes)]
        products.append(ops.mul(turned, second, "across", axes=x.axes))
        return ops.add(products[0], products[1])

    def _columns(self, f: Forward, linear: Linear) -> tuple[Value, Value]:
        tape, axes = f.tape, self._axes(linear.outs)
        theta, alpha = (
            self._spread(Parameter(tape, f"{linear.name}.{name}", axes, self.dtype, tape.grad), linear.outs)
            for name in ("road_theta", "road_alpha")
        )
        cosine, sine = _circular(theta, "cosine", negated=True), _circular(theta, "sine", negated=False)
        return ops.mul(alpha, cosine, "first column"), ops.mul(alpha, sine, "second column")

    def _spread(self, weight: Parameter, outs: Axes) -> Value:
        """One number for every output."""
        whole: Axes = (("X", size(outs)),)
        seen = matrices.taken(weight)
        return seen if self.each else ops.copy(seen, whole, "repeated numbers")


def _circular(x: Value, name: str, *, negated: bool) -> Value:
    """``cos`` or ``sin``, which save what they are given."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new(name, axes, dtype)

    def back(g: Value) -> Grads:
        other = tape.new("derivative", axes, dtype)
        passing = [tape.new("negated derivative", axes, dtype)] if negated else []
        grad = tape.new(f"gradient of {name}", axes, dtype)
        passing.clear()
        del other
        return (grad,)

    tape.record((out,), (x,), back, (x,))
    return out


class C3A(Record):
    """Circular convolution with trained blocks, by Fourier transforms in complex numbers (arXiv:2407.19342).

    Args:
        modules: names of the adapted matrices below the layer.
        block: side of a block.
    """

    modules: frozenset[str]
    block: int = 256
    early: ClassVar[tuple[str, ...]] = ()

    def _axes(self, outs: Axes, ins: Axes) -> Axes:
        return ("N", size(outs) // self.block), ("N", size(ins) // self.block), ("X", self.block)

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """A vector of every block."""
        return (("c3a_kernel", self._axes(outs, ins), "fp32"),)

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """None."""
        return ()

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen output, into which the convolution is added in place."""
        before = x.dtype
        y = frozen(f, linear, x)
        x = ops.cast(x, "fp32")
        axes = self._axes(linear.outs, linear.ins)
        kernel = Parameter(f.tape, f"{linear.name}.c3a_kernel", axes, "fp32", f.tape.grad)
        x = ops.scaled(_convolved(x, kernel, linear), "convolution")
        y = ops.add(y, ops.cast(x, y.dtype), in_place=True)
        return ops.cast(y, before)


def _complex(x: Value | Parameter, axes: Axes, label: str) -> Value:
    """Complex numbers of these axes."""
    return x.tape.new(label, (*axes, ("X", 2)), "fp32")


def _convolved(x: Value, kernel: Parameter, linear: Linear) -> Value:
    """A function of its own, which saves its input and the blocks; what it hands on is part of complex numbers."""
    tape, given = x.tape, x.axes
    made: Axes = (*given[: len(given) - len(linear.ins)], *linear.outs)
    flows = needs_grad(x)
    ours, theirs = _complex(x, given, "input, transformed"), _complex(x, kernel.axes, "blocks, transformed")
    product = tape.product("product of transforms", (*made, ("X", 2)), "fp32")
    del ours, theirs
    whole = _complex(x, made, "product, transformed")
    del product
    out = whole.view(made)
    del whole

    def back(g: Value) -> Grads:
        over = _complex(g, made, "gradient, transformed")
        blocks = _complex(g, kernel.axes, "blocks, transformed")
        product = tape.product("product of transforms", (*given, ("X", 2)), "fp32")
        del blocks
        gx = _complex(g, given, "input gradient").view(given)
        del product
        ours = _complex(g, given, "input, transformed")
        product = tape.product("product of transforms", (*kernel.axes, ("X", 2)), "fp32")
        del ours
        gw = [_complex(g, kernel.axes, "gradient of blocks")]
        del product, over
        return gx if flows else None, lambda: _real(gw.pop(), kernel.axes)

    tape.record((out,), (x, kernel), back, (x,), custom=True)
    return out


def _real(g: Value, axes: Axes) -> Value:
    return g.tape.new("gradient laid out", axes, "fp32")
