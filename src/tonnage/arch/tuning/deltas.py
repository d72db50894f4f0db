"""A trained change of a frozen matrix, made whole in every pass, as peft's own forward passes write it.

The change is as large as the matrix, in the format of what is trained, and is kept for the backward pass.

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/ loha/layer.py (HadaWeight, Linear),
lokr/layer.py (Linear), fourierft/layer.py, waveft/layer.py (without its inverse transform), hira/layer.py (Linear)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Grads, Parameter, Value
from tonnage.arch.tuning import matrices
from tonnage.arch.tuning.tuners import Beside, Frozen
from tonnage.record import Record
from tonnage.tensors import Axes, size

if TYPE_CHECKING:
    from tonnage.arch.layers import Linear
    from tonnage.arch.tuning.adapters import Packed


class _Change(Record):
    """What every such method shares: the frozen output, and the product with the change added."""

    modules: frozenset[str]
    dtype: str
    early: ClassVar[tuple[str, ...]] = ()
    inline: ClassVar[bool] = True
    """The change is made in the forward pass itself, which names it to its end."""

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """None."""
        return ()

    def _parameter(self, f: Forward, linear: Linear, name: str, axes: Axes) -> Parameter:
        return Parameter(f.tape, f"{linear.name}.{name}", axes, self.dtype, f.tape.grad)

    def change(self, f: Forward, linear: Linear, axes: Axes) -> Value:
        """What is added to the matrix, of outputs and inputs."""
        raise NotImplementedError

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen output with the product of the change added."""
        before = x.dtype
        y = frozen(f, linear, x)
        if not self.inline:
            y = ops.add(y, self._product(f, linear, x))
            return ops.cast(y, before)
        change = self.change(f, linear, (*linear.outs, *linear.ins))
        x = ops.cast(x, change.dtype)
        y = ops.add(y, matrices.against(x, change, len(linear.ins), linear.outs, "product of change"))
        return ops.cast(y, before)

    def _product(self, f: Forward, linear: Linear, x: Value) -> Value:
        change = self.change(f, linear, (*linear.outs, *linear.ins))
        x = ops.cast(x, change.dtype)
        return matrices.against(x, change, len(linear.ins), linear.outs, "product of change")


class LoHa(_Change):
    """Two low-rank products, multiplied (arXiv:2108.06098).

    Args:
        rank: of both.
    """

    rank: int = 8
    inline: ClassVar[bool] = False

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """The four factors."""
        inner = ("R", self.rank)
        return tuple(
            (f"hada_{w}_{side}", (*outs, inner) if side == "a" else (inner, *ins))
            for w in ("w1", "w2")
            for side in "ab"
        )

    def change(self, f: Forward, linear: Linear, axes: Axes) -> Value:
        """A function of its own, which saves the factors alone."""
        tape, dtype = f.tape, self.dtype
        names = self.trained("", linear.outs, linear.ins)
        factors = [self._parameter(f, linear, name, sides) for name, sides, *_ in names]
        form = tape.autocast or dtype
        low = [ops.lowered_weight(p) for p in factors[:2]]
        first = tape.product("first product", axes, form)
        low = [ops.lowered_weight(p) for p in factors[2:]]
        second = tape.product("second product", axes, form)
        del low
        both = tape.new("both products", axes, form)
        del first, second
        out = tape.new("change", axes, form)
        del both

        def back(g: Value) -> Grads:
            scaled = tape.new("scaled gradient", axes, form)
            grads: list[Value] = []
            for one in (factors[:2], factors[2:]):
                other = tape.product("other product", axes, dtype)
                turned = tape.new("gradient of a product", axes, dtype)
                del other
                grads += [tape.product("gradient of factor", p.axes, dtype) for p in one]
            del scaled, turned
            return tuple(grads)

        tape.record((out,), tuple(factors), back, (), custom=True, keeps_weight=True)
        return out


class LoKr(_Change):
    """A Kronecker product, whose second factor is of low rank (arXiv:2212.10650).

    Args:
        rank: of the factors that are low-rank products.
        both: the first factor may be one as well.
        factor: of which the smaller sides are; -1 for as square as it goes.
    """

    rank: int = 8
    both: bool = False
    factor: int = -1
    inline: ClassVar[bool] = False

    def _sides(self, outs: Axes, ins: Axes) -> tuple[tuple[int, int], tuple[int, int]]:
        return _split(size(outs), self.factor), _split(size(ins), self.factor)

    def _factors(self, outs: Axes, ins: Axes) -> tuple[tuple[Beside, ...], tuple[Beside, ...]]:
        """The tensors of the first factor and of the second."""
        found = []
        inner = ("R", self.rank)
        for index, (high, wide) in enumerate(zip(*self._sides(outs, ins), strict=True)):
            whole = self.rank >= max(high, wide) / 2 or (not index and not self.both)
            name = f"lokr_w{index + 1}"
            one: tuple[Beside, ...] = ((name, (("X", high), ("X", wide))),)
            two: tuple[Beside, ...] = ((f"{name}_a", (("X", high), inner)), (f"{name}_b", (inner, ("X", wide))))
            found.append(one if whole else two)
        return found[0], found[1]

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """Both factors, each whole or as a low-rank product."""
        first, second = self._factors(outs, ins)
        return (*first, *second)

    def change(self, f: Forward, linear: Linear, axes: Axes) -> Value:
        """Every element of the first factor times the second."""
        one, two = (self._factor(f, linear, names) for names in self._factors(linear.outs, linear.ins))
        whole: Axes = (one.axes[0], two.axes[0], one.axes[1], two.axes[1])
        spread = ops.mul(one, two, "Kronecker product", axes=whole)
        return ops.scaled(spread.view(axes), "change")

    def _factor(self, f: Forward, linear: Linear, names: tuple[Beside, ...]) -> matrices.Factor:
        found = [self._parameter(f, linear, name, axes) for name, axes, *_ in names]
        if len(found) == 1:
            return found[0]
        return matrices.product(found[0], found[1], (found[0].axes[0], found[1].axes[1]), "factor")


def _split(side: int, factor: int) -> tuple[int, int]:
    """Two numbers whose product is a side, the smaller first (``factorization``)."""
    if factor > 0 and side % factor == 0:
        return factor, side // factor
    most = side if factor == -1 else factor
    best, length = 1, 1 + side
    for low in range(2, most + 1):
        if low * low > side and low > side // low:
            break
        if side % low == 0:
            if low + side // low > length:
                break
            best = low
    return best, side // best


class FourierFT(_Change):
    """Some frequencies of the change (arXiv:2405.03003); where they are stays with the host.

    Args:
        count: frequencies of a matrix.
    """

    count: int = 1000

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """The coefficients."""
        return (("fourierft_spectrum", (("X", self.count),)),)

    def change(self, f: Forward, linear: Linear, axes: Axes) -> Value:
        """Coefficients where they belong, transformed back: complex numbers on the way."""
        tape = f.tape
        spectrum = self._parameter(f, linear, "fourierft_spectrum", (("X", self.count),))
        where = tape.new("frequencies", (("X", 2), ("X", self.count)), "int64")
        dense = _placed(spectrum, where, axes)
        return ops.scaled(_back(dense, axes), "change")


class WaveFT(_Change):
    """Some elements of the change, without the inverse transform (arXiv:2505.12532, ``use_idwt = false``).

    Args:
        count: elements of a matrix.
    """

    count: int = 2592

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """The elements."""
        return (("waveft_spectrum", (("X", self.count),)),)

    def change(self, f: Forward, linear: Linear, axes: Axes) -> Value:
        """The elements where they belong."""
        spectrum = self._parameter(f, linear, "waveft_spectrum", (("X", self.count),))
        where = f.tape.new("places", (("X", 2), ("X", self.count)), "int64")
        return ops.scaled(_placed(spectrum, where, axes), "change")


def _placed(values: Parameter, where: Value, axes: Axes) -> Value:
    """``zeros[where] = values``, of which the places are kept."""
    tape, before, dtype = values.tape, values.axes, values.dtype
    out = tape.new("sparse change", axes, dtype)
    tape.record((out,), (values,), lambda _: (tape.new("gradient of values", before, dtype),), (where,))
    return out


def _back(dense: Value, axes: Axes) -> Value:
    """``ifft2(x).real``."""
    tape, dtype = dense.tape, dense.dtype
    numbers: Axes = (*axes, ("X", 2))
    wide = tape.new("complex numbers", numbers, dtype)
    tape.record((wide,), (dense,), lambda _: (tape.new("real gradient", axes, dtype),), ())
    turned = tape.new("transformed", numbers, dtype)
    tape.record((turned,), (wide,), lambda _: (tape.new("transformed gradient", numbers, dtype),), ())
    real = Value(turned.storage, axes, dtype)
    tape.record((real,), (turned,), lambda _: (tape.new("complex gradient", numbers, dtype),), ())
    return real


class HiRA(_Change):
    """The frozen matrix times a low-rank product, element by element (arXiv:2410.13342).

    Args:
        rank: of the product.
        dropout: of the input.
    """

    rank: int = 32
    dropout: float = 0.0

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """Both factors."""
        inner = ("R", self.rank)
        return ("hira_A", (inner, *ins)), ("hira_B", (*outs, inner))

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen output with the product of the weighed matrix added."""
        y = frozen(f, linear, x)
        before = y.dtype
        (first, ins, *_), (second, outs, *_) = self.trained("", linear.outs, linear.ins)
        a, b = self._parameter(f, linear, first, ins), self._parameter(f, linear, second, outs)
        whole = (*linear.outs, *linear.ins)
        both = matrices.product(b, a, whole, "low-rank product")
        x = ops.cast(x, self.dtype)
        dropped = ops.dropout(x, self.dropout, f.training)
        weight = f.tape.parameter(f"{linear.name}.weight", whole)
        added = matrices.against(
            dropped, ops.mul(weight, both, "weighed matrix"), len(linear.ins), linear.outs, "product of change"
        )
        y = ops.add(y, added)
        return ops.cast(y, before)
