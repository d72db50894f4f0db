"""Frozen matrices whose input is turned by trained orthogonal blocks, as peft's own forward passes write them.

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/ oft/layer.py (OFTRotationModule, Linear),
boft/layer.py (Linear, without its CUDA extension)

Leaves out: what solvers of linear systems take for themselves.
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


class OFT(Record):
    """Orthogonal blocks by a Neumann series of Cayley's transform (arXiv:2311.06243): ``W R x``.

    Args:
        modules: names of the adapted matrices below the layer.
        dtype: of the blocks.
        block: side of one.
        shared: one block stands for all.
        terms: of the series; 0 solves for it.
        blocks: how many there are, where that is said instead of their side.
    """

    modules: frozenset[str]
    dtype: str
    block: int = 32
    shared: bool = False
    terms: int = 5
    blocks: int = 0
    early: ClassVar[tuple[str, ...]] = ()

    def _blocks(self, ins: Axes) -> tuple[int, int]:
        """How many blocks of which side, after peft has made them divide."""
        wide = size(ins)
        if self.blocks:
            count = _dividing(wide, self.blocks)
            return count, wide // count
        side = _dividing(wide, self.block)
        return wide // side, side

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """What stands above the diagonal of each block."""
        count, side = self._blocks(ins)
        return (("oft_R.weight", (("N", 1 if self.shared else count), ("X", side * (side - 1) // 2))),)

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """Rows and columns of what stands above the diagonal."""
        _, side = self._blocks(ins)
        above: Axes = (("X", side * (side - 1) // 2),)
        return ("oft_R.rows", above, "int64", "buffer"), ("oft_R.cols", above, "int64", "buffer")

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen product of the turned input."""
        before = x.dtype
        x = self._turned(f, linear, ops.cast(x, self.dtype))
        y = frozen(f, linear, ops.cast(x, before))
        return ops.cast(y, before)

    def _turned(self, f: Forward, linear: Linear, x: Value) -> Value:
        count, side = self._blocks(linear.ins)
        tape, whole = x.tape, x.axes
        stood = 1 if self.shared else count
        weight = Parameter(
            tape, f"{linear.name}.oft_R.weight", (("N", stood), ("X", side * (side - 1) // 2)), self.dtype, tape.grad
        )
        turning = self._cayley(_skew(weight, (("N", stood), ("X", side), ("X", side))))
        rows = whole[: len(whole) - len(linear.ins)]
        split = matrices.turned(x, (("N", count), *rows, ("X", side)))
        if self.shared:
            turning = matrices.repeated(turning, (("N", count), ("X", side), ("X", side)))
        y = matrices.product(split, turning, (("N", count), *rows, ("X", side)), "turned blocks")
        turned = ops.copy(y, whole, "turned input")
        return ops.cast(turned, self.dtype)

    def _cayley(self, skew: Value) -> Value:
        tape, axes = skew.tape, skew.axes
        if not self.terms:
            return _solved(skew)
        one = tape.new("identity", axes[1:], self.dtype)
        total = tape.new("identities", axes, self.dtype)
        del one
        if self.terms > 1:
            total = matrices.accumulated(total, skew)
            if self.terms > 2:
                power = matrices.product(skew, skew, axes, "power")
                total = matrices.accumulated(total, power)
                for _ in range(3, self.terms - 1):
                    power = matrices.product(power, skew, axes, "power")
                    total = matrices.accumulated(total, power)
                power = matrices.product(power, skew, axes, "power")
                total = matrices.accumulated(total, power, times=False)
        return total


def _dividing(wide: int, said: int) -> int:
    """The number nearest to the one said that divides, the smaller of two (``adjust_oft_parameters``)."""
    if wide % said == 0:
        return said
    if said >= wide:
        return wide
    higher = next(n for n in range(said, wide + 1) if wide % n == 0)
    lower = next(n for n in range(said, 0, -1) if wide % n == 0)
    return lower if said - lower <= higher - said else higher


def _skew(weight: Parameter, axes: Axes) -> Value:
    """``M - M^T`` of blocks whose upper triangle is given."""
    upper = matrices.scattered(weight, axes, "upper triangles")
    return ops.sub(upper, upper, "skew blocks")


def _solved(skew: Value) -> Value:
    """``solve(I + S, I - S)`` from the right: saves the sum, its decomposition, pivots and the result."""
    tape, axes = skew.tape, skew.axes
    one = tape.new("identity", axes[1:], "fp32")
    # Both operands are made before the solver is called.
    above = ops.shifted(skew, "one more")
    below = ops.sub(one.view(axes), skew, "one less")
    result = tape.new("rotation", axes, "fp32")
    factors = tape.new("decomposition", axes, "fp32")
    pivots = tape.new("pivots", axes[:2], "int32")
    told = tape.new("solver's report", axes[:1], "int32")

    def back(g: Value) -> Grads:
        gb = tape.new("gradient of right side", axes, "fp32")
        passing = [tape.new("product with solution", axes, "fp32")]
        ga = tape.new("gradient of left side", axes, "fp32")
        passing.clear()
        return ga, gb

    tape.record((result,), (above, below), back, (above, factors, pivots, result))
    del told, one
    return result


class BOFT(Record):
    """Orthogonal blocks in a butterfly of one factor (arXiv:2311.06243), and a scale of every output.

    peft builds its extension for more factors where it finds a compiler of CUDA, and falls back to one without.
    Every module holds its permutations as a matrix of fp32, as wide as its input both ways.

    Args:
        modules: names of the adapted matrices below the layer.
        dtype: of the blocks.
        block: side of one.
        blocks: how many there are, where that is said instead of their side.
    """

    modules: frozenset[str]
    dtype: str
    block: int = 4
    blocks: int = 0
    early: ClassVar[tuple[str, ...]] = ()

    def _axes(self, ins: Axes) -> Axes:
        wide = size(ins)
        side = wide // self.blocks if self.blocks else self.block
        return (("X", 1), ("N", wide // side), ("X", side), ("X", side))

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """The blocks, and a scale of every output."""
        return ("boft_R", self._axes(ins)), ("boft_s", (("X", size(outs)), ("X", 1)))

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """The permutations."""
        wide = size(ins)
        return (("boft_P", (("X", 1), ("X", wide), ("X", wide)), "fp32", "buffer"),)

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen product of the turned input, scaled."""
        tape, before, dtype = x.tape, x.dtype, self.dtype
        wide, high = size(linear.ins), size(linear.outs)
        square: Axes = (("X", 1), ("X", wide), ("X", wide))
        turning = tape.new("identity", square[1:], before)
        scale = tape.new("ones", (("X", high), ("X", 1)), before)
        axes = self._axes(linear.ins)
        blocks = Parameter(tape, f"{linear.name}.boft_R", axes, dtype, tape.grad)
        s = Parameter(tape, f"{linear.name}.boft_s", scale.axes, dtype, tape.grad)
        rotations = _solved(_halved(blocks, axes[1:]))
        butterfly = [_joined(rotations, square)]
        order: matrices.Factor = matrices.buffer(tape, square, "fp32")
        if before != "fp32":
            order = tape.new("permutations cast", square, before)
        butterfly.append(ops.cast(butterfly.pop(), before))
        batch = matrices.product(butterfly[0], order, square, "butterfly")
        batch = matrices.product(order, batch, square, "butterfly")
        one = ops.narrow(batch, square[1:])
        turning = matrices.product(one, turning, square[1:], "rotation")
        scale = ops.mul(s, scale, "scale")
        turning = ops.cast(turning, before)
        turned = matrices.against(x, turning, len(linear.ins), linear.ins, "turned input")
        y = frozen(f, linear, turned)
        bias = f.tape.parameter(f"{linear.name}.bias", linear.outs) if linear.bias else None
        if bias is not None:
            y = ops.add(y, bias, "without bias")
        y = ops.mul(y, scale, "scaled output", axes=y.axes)
        if bias is not None:
            y = ops.add(y, bias, "with bias")
        return ops.cast(y, before)


def _halved(blocks: Parameter, axes: Axes) -> Value:
    """``0.5 * (B - B^T)``."""
    both = matrices.taken(blocks, axes)
    return ops.scaled(ops.sub(both, both, "skew blocks"), "half of them")


def _joined(blocks: Value, square: Axes) -> Value:
    """One matrix with the blocks on its diagonal, of which each gradient is a part."""
    tape, before, dtype = blocks.tape, blocks.axes, blocks.dtype
    out = tape.new("blocks on a diagonal", square, dtype)
    tape.record((out,), (blocks,), lambda _: (tape.new("gradient of blocks", before, dtype),), ())
    return out


class HRA(Record):
    """A chain of reflections before a matrix (arXiv:2405.17484): ``W (I - 2 u u^T) ... x``.

    Every reflection is multiplied out, and keeps a matrix as wide as the input both ways.

    Args:
        modules: names of the adapted matrices below the layer.
        dtype: of the vectors.
        rank: how many reflections.
    """

    modules: frozenset[str]
    dtype: str
    rank: int = 8
    early: ClassVar[tuple[str, ...]] = ()

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """The vectors."""
        return (("hra_u", (*ins, ("R", self.rank))),)

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """None."""
        return ()

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The product with the reflected matrix; the frozen one is cast anew."""
        tape, before, dtype = x.tape, x.dtype, self.dtype
        wide = size(linear.ins)
        square: Axes = (("X", wide), ("X", wide))
        one = tape.new("identity", square, "fp32")
        chain = self._chain(f, linear, square)
        new = matrices.product(one, chain, square, "reflections")
        del one
        whole = (*linear.outs, *linear.ins)
        # Autocast has made the reflections narrower.
        dtype = new.dtype
        frozen_matrix: matrices.Factor = matrices.buffer(tape, whole, dtype)
        if tape.weights != dtype:
            frozen_matrix = tape.new("matrix cast", whole, dtype)
        new = matrices.product(frozen_matrix, new, whole, "reflected matrix")
        bias = tape.parameter(f"{linear.name}.bias", linear.outs) if linear.bias else None
        shift = None if bias is None else ops.weight_in(bias, dtype)
        x = ops.cast(x, dtype)
        y = matrices.against(x, new, len(linear.ins), linear.outs, "reflected product", bias=shift)
        return ops.cast(y, before)

    def _chain(self, f: Forward, linear: Linear, square: Axes) -> Value:
        tape, dtype = f.tape, self.dtype
        axes: Axes = (*linear.ins, ("R", self.rank))
        weight = Parameter(tape, f"{linear.name}.hra_u", axes, dtype, tape.grad)
        u = _directed(weight, axes)
        column: Axes = (("X", size(linear.ins)), ("X", 1))
        chain = tape.new("identity", square, dtype)
        for _ in range(self.rank):
            one = ops.narrow(u, column)
            twice = ops.scaled(chain, "twice the chain")
            along = [matrices.product(twice, one, column, "along the vector")]
            del twice
            row = one.view((column[1], column[0]))
            plane = [matrices.product(along.pop(), row, square, "reflected part")]
            chain = ops.sub(chain, plane[0], "chain of reflections")
            plane.clear()
        return chain


def _directed(weight: Parameter, axes: Axes) -> Value:
    """Every vector over its length."""
    tape, dtype = weight.tape, weight.dtype
    lengths: Axes = axes[-1:]
    norm = tape.new("lengths", lengths, dtype)

    def back_norm(g: Value) -> Grads:
        over = tape.new("vectors over lengths", axes, dtype)
        none = tape.new("lengths of zero", lengths, "bool")
        grad = tape.new("gradient of lengths", axes, dtype)
        del none, over
        return (grad,)

    tape.record((norm,), (weight,), back_norm, (norm,), keeps_weight=True)
    out = tape.new("directions", axes, dtype)

    def back(g: Value) -> Grads:
        passing = [tape.new("quotient", axes, dtype) for _ in range(2)]
        passing.append(tape.new("negated quotient", axes, dtype))
        over = tape.new("gradient of quotient", axes, dtype)
        passing.clear()
        first = tape.new("gradient of directions", axes, dtype)
        return first, ops.fitted(over, lengths, dtype)

    tape.record((out,), (weight, norm), back, (norm,), keeps_weight=True)
    return out
