"""Low-rank changes made of one bank of numbers that all layers share, as peft's own forward passes write them.

The bank's gradient begins in the top layer, and what the layers below hand back is added into it in place.

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/ vblora/layer.py (_get_low_rank_matrix),
unilora/layer.py (_get_lora_matrices), tinylora/layer.py (_compute_R)

Leaves out: what a kernel that adds rows into the bank's gradient sorts them with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Parameter, Tape, Value
from tonnage.arch.tuning import matrices
from tonnage.arch.tuning.tuners import Beside, Frozen
from tonnage.record import Record
from tonnage.tensors import Axes, size

if TYPE_CHECKING:
    from tonnage.arch.layers import Linear
    from tonnage.arch.tuning.adapters import Packed

VECTORS: Final = "base_model.vblora_vector_bank"
NUMBERS: Final = "base_model.unilora_theta_d"


def _changed(
    f: Forward, x: Value, y: Value, pair: tuple[matrices.Factor, matrices.Factor], linear: Linear, dropout: float
) -> Value:
    """``y + linear(linear(x, A), B)``."""
    first, second = pair
    made = [
        matrices.against(ops.dropout(x, dropout, f.training), first, len(linear.ins), first.axes[:1], "low product")
    ]
    made.append(matrices.against(made.pop(), second, 1, linear.outs, "change"))
    return ops.add(y, made.pop())


def _picked(bank: Parameter, axes: Axes, indices: Value | None) -> Value:
    """``bank[indices]``; its gradient is as large as the bank. Indices that are buffers are not kept anew."""
    tape, whole, dtype = bank.tape, bank.axes, bank.dtype
    out = tape.new("picked of the bank", axes, dtype)
    saved = () if indices is None else (indices,)
    tape.record((out,), (bank,), lambda _: (tape.new("gradient of the bank", whole, dtype),), saved)
    return out


class VBLoRA(Record):
    """Sub-vectors that are weighed sums of a bank's (arXiv:2405.15179).

    Args:
        modules: names of the adapted matrices below the layer.
        dtype: of bank and logits.
        rank: of the change.
        dropout: of its input.
        vectors: in the bank.
        length: of each.
        picks: vectors that a sub-vector is made of.
    """

    modules: frozenset[str]
    dtype: str
    rank: int
    dropout: float
    vectors: int
    length: int
    picks: int
    early: ClassVar[tuple[str, ...]] = ()

    def bank(self, name: str) -> str:
        """The parameter that a module shares with all others."""
        return VECTORS

    def _axes(self, outs: Axes, ins: Axes) -> tuple[Axes, Axes]:
        tiles = tuple(("N", size(side) // self.length) for side in (ins, outs))
        return (("R", self.rank), tiles[0], ("E", self.vectors)), (tiles[1], ("R", self.rank), ("E", self.vectors))

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """A number for each vector of the bank, for every sub-vector."""
        first, second = self._axes(outs, ins)
        return ("vblora_logits_A", first), ("vblora_logits_B", second)

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """None."""
        return ()

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen output with the change added."""
        before = x.dtype
        y = frozen(f, linear, x)
        inner: Axes = (("R", self.rank),)
        names = (f"{linear.name}.vblora_logits_A", f"{linear.name}.vblora_logits_B")
        a, b = (self._made(f.tape, n, axes) for n, axes in zip(names, self._axes(linear.outs, linear.ins), strict=True))
        a = a.view(inner + linear.ins)
        b = ops.copy(b, linear.outs + inner, "vectors side by side")
        y = _changed(f, ops.cast(x, self.dtype), y, (a, b), linear, self.dropout)
        return ops.cast(y, before)

    def _made(self, tape: Tape, name: str, axes: Axes) -> Value:
        """Sub-vectors: the largest logits, their softmax, the vectors that they stand for, and the sum of these."""
        logits = Parameter(tape, name, axes, self.dtype, tape.grad)
        bank = Parameter(tape, VECTORS, (("E", self.vectors), ("X", self.length)), self.dtype, tape.grad)
        some: Axes = (*axes[:2], ("J", self.picks))
        values, indices = tape.new("largest logits", some, self.dtype), tape.new("numbers of vectors", some, "int64")
        whole, dtype = axes, self.dtype
        tape.record((values,), (logits,), lambda _: (tape.new("gradient of logits", whole, dtype),), (indices,))
        weights = ops.softmax(values, label="weights of vectors")
        each: Axes = (*some, ("X", self.length))
        weighed = [ops.mul(weights, _picked(bank, each, indices), "weighed vectors", axes=each)]
        return _summed(weighed.pop())


def _summed(x: Value) -> Value:
    """The sum over the vectors, whose gradient is seen as many."""
    tape, whole, axes, dtype = x.tape, x.axes, (*x.axes[:-2], x.axes[-1]), x.dtype
    out = tape.new("sum of vectors", axes, dtype)
    tape.record((out,), (x,), lambda g: (g.view(whole),), ())
    return out


class UniLoRA(Record):
    """Every element of both matrices is a number of one vector (arXiv:2506.00799).

    Args:
        modules: names of the adapted matrices below the layer.
        dtype: of the vector, and of the elements' scales.
        rank: of the change.
        dropout: of its input.
        length: of the vector.
    """

    modules: frozenset[str]
    dtype: str
    rank: int
    dropout: float
    length: int
    early: ClassVar[tuple[str, ...]] = ()

    def bank(self, name: str) -> str:
        """The parameter that a module shares with all others."""
        return NUMBERS

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """None of its own."""
        return ()

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """Which number each element is, and its scale."""
        sides = {"A": (("R", self.rank), *ins), "B": (*outs, ("R", self.rank))}
        return tuple(
            (f"unilora_{what}_{side}", axes, form, "buffer")
            for what, form in (("indices", "int64"), ("scales", self.dtype))
            for side, axes in sides.items()
        )

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen output with the change added."""
        before, tape, inner = x.dtype, f.tape, (("R", self.rank),)
        y = frozen(f, linear, x)
        numbers = Parameter(tape, NUMBERS, (("X", self.length),), self.dtype, tape.grad)
        pair = [
            ops.mul(_picked(numbers, axes, None), matrices.buffer(tape, axes, self.dtype), "scaled elements")
            for axes in (inner + linear.ins, linear.outs + inner)
        ]
        y = _changed(f, ops.cast(x, self.dtype), y, (pair[0], pair[1]), linear, self.dropout)
        return ops.cast(y, before)


class TinyLoRA(Record):
    """A few numbers, that weigh random matrices between two frozen ones (arXiv:2602.04118).

    Args:
        modules: names of the adapted matrices below the layer.
        dtype: of the numbers, and of all that stands beside the matrix.
        rank: of the frozen matrices.
        dropout: of their input.
        numbers: that are trained for each matrix.
    """

    modules: frozenset[str]
    dtype: str
    rank: int
    dropout: float
    numbers: int
    early: ClassVar[tuple[str, ...]] = ()

    def _rank(self, outs: Axes, ins: Axes) -> int:
        return min(self.rank, size(outs), size(ins))

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """The numbers."""
        return (("tinylora_v", (("X", self.numbers),)),)

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """The singular vectors, and what lies between."""
        r = ("R", self._rank(outs, ins))
        return (
            ("tinylora_A", (r, *ins), self.dtype, "buffer"), ("tinylora_B", (*outs, r), self.dtype, "buffer"),
            ("tinylora_P", (("X", self.numbers), r, r), self.dtype, "buffer"),
        )  # fmt: skip

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen output with the change added."""
        before, tape = x.dtype, f.tape
        y = frozen(f, linear, x)
        r: Axes = (("R", self._rank(linear.outs, linear.ins)),)
        numbers = Parameter(tape, f"{linear.name}.tinylora_v", (("X", self.numbers),), self.dtype, tape.grad)
        row: Axes = (("X", 1), ("X", self.numbers))
        low_numbers = ops.lowered_weight(numbers)
        seen = matrices.taken(numbers, row) if isinstance(low_numbers, Parameter) else low_numbers.view(row)
        between = matrices.buffer(tape, (("X", self.numbers), ("X", size(r) ** 2)), self.dtype)
        made = matrices.product(seen, between, r + r, "matrix between")
        x = ops.cast(ops.dropout(x, self.dropout, f.training), self.dtype)
        first = Parameter(tape, f"{linear.name}.tinylora_A", r + linear.ins, self.dtype, False)
        second = Parameter(tape, f"{linear.name}.tinylora_B", linear.outs + r, self.dtype, False)
        low = ops.linear(x, first, None, len(linear.ins), r)
        low = matrices.against(low, made, 1, r, "turned product")
        change = ops.linear(low, second, None, 1, linear.outs)
        y = ops.add(y, change)
        return ops.cast(y, before)
