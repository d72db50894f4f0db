"""Low-rank changes beside frozen matrices that are no LoRA, as peft's own forward passes write them.

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/ osf/layer.py (Linear and its hooks),
randlora/layer.py (UniqueBaseGrad, Linear), miss/layer.py (MissLinear), beft/layer.py (Linear)
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


class OSF(Record):
    """The lowest singular vectors of a matrix, trained across the highest ones (arXiv:2504.07097).

    A module keeps what it began with, and the highest vectors of its longer side; hooks take from a gradient what lies
    along these. The whole decomposition is made when the adapter is.

    Args:
        modules: names of the adapted matrices below the layer.
        dtype: of the vectors.
        high: vectors that stay as they are; 0 for half of the shorter side.
        low: vectors that are trained, where that is said for all matrices (a ``rank_pattern`` of all); 0 where not.
    """

    modules: frozenset[str]
    dtype: str
    high: int = 0
    low: int = 0
    early: ClassVar[tuple[str, ...]] = ()

    def _inner(self, outs: Axes, ins: Axes) -> int:
        """How many vectors are trained."""
        short = min(size(outs), size(ins))
        return self.low or short - (self.high or short // 2)

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """Values, and vectors of both sides."""
        inner = ("R", self._inner(outs, ins))
        base = "osf_svd_params"
        return (f"{base}.S_low", (inner,)), (f"{base}.U_low", (*outs, inner)), (f"{base}.V_low", (inner, *ins))

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """What these began with, and the highest vectors of a side that is longer than the other."""
        rank = self._inner(outs, ins)
        high, wide = size(outs), size(ins)
        rest = ("R", min(high, wide) - rank)
        held: list[tuple[str, Axes]] = [
            ("_osf_U_low_init", (*outs, ("R", rank))), ("_osf_S_low_init", (("R", rank),)),
            ("_osf_V_low_init", (("R", rank), *ins)),
        ]  # fmt: skip
        held += [("_osf_U_high", (*outs, rest))] if high > wide else []
        held += [("_osf_V_high", (rest, *ins))] if high < wide else []
        return tuple((name, axes, self.dtype, "buffer") for name, axes in held)

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen output, with both low-rank products as one added."""
        tape, before, dtype = x.tape, x.dtype, self.dtype
        y = frozen(f, linear, x)
        rank, outs, ins = self._inner(linear.outs, linear.ins), linear.outs, linear.ins
        inner: Axes = (("R", rank),)
        both: Axes = (("R", 2 * rank),)
        rest = min(size(outs), size(ins)) - rank
        base = f"{linear.name}.osf_svd_params"
        s = Parameter(tape, f"{base}.S_low", inner, dtype, tape.grad)
        u = Parameter(tape, f"{base}.U_low", outs + inner, dtype, tape.grad)
        v = Parameter(tape, f"{base}.V_low", inner + ins, dtype, tape.grad)
        longer = rest if size(outs) > size(ins) else 0
        now = ops.mul(_across(u, rank, longer, inner), s, "scaled vectors", axes=outs + inner)
        begun = tape.new("scaled vectors at first", outs + inner, dtype)
        begun = tape.new("negated vectors", outs + inner, dtype)
        a = ops.cat((now, begun), outs + both, "left factor")
        del now, begun
        longer = rest if size(outs) < size(ins) else 0
        first = matrices.buffer(tape, inner + ins, dtype)
        b = ops.cat((_across(v, rank, longer, inner), _held(first)), both + ins, "right factor")
        x = ops.cast(x, dtype)
        h = matrices.against(x, b, len(ins), both, "low product")
        added = matrices.against(h, a, 1, outs, "added")
        return ops.add(y, ops.cast(added, before))


def _held(weight: Parameter) -> Value:
    """A buffer as a value: nothing is made."""
    return weight.tape.new("buffer", matrices.EMPTY, weight.dtype).view(weight.axes)


def _across(weight: Parameter, rank: int, high: int, inner: Axes) -> Value:
    """A parameter whose gradient a hook turns: by its first vectors, or less what lies along the highest ones."""
    tape, axes, dtype = weight.tape, weight.axes, weight.dtype
    out = tape.new("view", matrices.EMPTY, dtype).view(axes)

    def back(g: Value) -> Grads:
        low = tape.product("along vectors", (("R", high or rank), *inner), dtype)
        turned = tape.product("across vectors", axes, dtype)
        del low
        if high:
            turned = tape.new("across the highest", axes, dtype)
        return (turned,)

    tape.record((out,), (weight,), back, ())
    return out


class RandLoRA(Record):
    """Sums of random low-rank products with trained weights, whose matrices all modules share (arXiv:2502.00987).

    Args:
        modules: names of the adapted matrices below the layer.
        dtype: of the weights.
        rank: of one product.
        dropout: of the input.
    """

    modules: frozenset[str]
    dtype: str
    rank: int = 32
    dropout: float = 0.0
    early: ClassVar[tuple[str, ...]] = ()

    def _count(self, outs: Axes, ins: Axes) -> int:
        return -(-min(size(outs), size(ins)) // self.rank)

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """A weight of every product and rank, and of every product and element of the shorter side."""
        count = ("N", self._count(outs, ins))
        short = min(size(outs), size(ins))
        return ("randlora_lambda", (("R", self.rank), count)), ("randlora_gamma", (count, ("X", short)))

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """None of its own: what is shared stands once."""
        return ()

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen output with the product of the summed bases added."""
        tape, before, dtype = x.tape, x.dtype, self.dtype
        y = frozen(f, linear, x)
        outs, ins = linear.outs, linear.ins
        count = self._count(outs, ins)
        low: Axes = (("R", count * self.rank),)
        narrow = size(ins) <= size(outs)
        whole = outs if narrow else ins
        large = matrices.buffer(tape, whole + low if narrow else low + whole, dtype)
        small = self._weighed(f, linear, count, low + ins if narrow else outs + low)
        x = ops.cast(x, dtype)
        first: matrices.Factor = small if narrow else large
        second: matrices.Factor = large if narrow else small
        made = [matrices.against(ops.dropout(x, self.dropout, f.training), first, len(ins), low, "low product")]
        made = [matrices.against(made.pop(), second, 1, outs, "product of bases")]
        made = [ops.scaled(made.pop())]
        y = ops.add(y, made.pop())
        return ops.cast(y, before)

    def _weighed(self, f: Forward, linear: Linear, count: int, axes: Axes) -> Value:
        """The smaller shared matrix, weighed for every product."""
        tape, dtype = f.tape, self.dtype
        names = self.trained("", linear.outs, linear.ins)
        made = [Parameter(tape, f"{linear.name}.{name}", sides, dtype, tape.grad) for name, sides, *_ in names]
        first = tape.new("weighed once", axes, dtype)
        out = tape.new("weighed matrix", axes, dtype)
        del first

        def back(g: Value) -> Grads:
            grads: list[Value] = []
            for p in made:
                times = tape.new("products of elements", axes, dtype)
                grads.append(tape.product("gradient of weights", p.axes, dtype))
                del times
            turned = [grads[0]]
            return lambda: _copied(turned.pop()), grads.pop()

        tape.record((out,), tuple(made), back, (), custom=True, keeps_weight=True)
        return out


def _copied(g: Value) -> Value:
    """What a gradient becomes whose elements do not lie as its tensor's do."""
    return g.tape.new("gradient laid out", g.axes, g.dtype)


class MiSS(Record):
    """One matrix for all shards of the input, which are added up (arXiv:2409.15371).

    Args:
        modules: names of the adapted matrices below the layer.
        dtype: of the matrix.
        rank: elements of a shard.
        dropout: of the input.
    """

    modules: frozenset[str]
    dtype: str
    rank: int = 64
    dropout: float = 0.0
    early: ClassVar[tuple[str, ...]] = ()

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """The matrix."""
        return (("miss_block", (("R", self.rank), *outs)),)

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """None."""
        return ()

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen output with the product of the summed shards added."""
        tape, before = x.tape, x.dtype
        y = frozen(f, linear, x)
        inner: Axes = (("R", self.rank),)
        block = Parameter(tape, f"{linear.name}.miss_block", inner + linear.outs, self.dtype, tape.grad)
        rows = x.axes[: len(x.axes) - len(linear.ins)]
        short = -size(linear.ins) % self.rank
        if short:
            x = _padded(x, (*rows, ("X", size(linear.ins) + short)))
        x = ops.cast(x, self.dtype)
        added = [_summed(ops.dropout(x, self.dropout, f.training), rows + inner)]
        added.append(matrices.against(added.pop(), block, 1, linear.outs, "product of shards"))
        y = ops.add(y, added.pop())
        return ops.cast(y, before)


def _padded(x: Value, axes: Axes) -> Value:
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("padded", axes, dtype)
    tape.record((out,), (x,), lambda _: (tape.new("gradient of padded", before, dtype),), ())
    return out


def _summed(x: Value, axes: Axes) -> Value:
    """The sum of the shards; its gradient is laid out once for each."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("sum of shards", axes, dtype)
    tape.record((out,), (x,), lambda _: (tape.new("gradient of shards", before, dtype),), ())
    return out


class BEFT(Record):
    """A bias beside every matrix (arXiv:2509.15974).

    Args:
        modules: names of the adapted matrices below the layer.
        dtype: of the bias.
    """

    modules: frozenset[str]
    dtype: str
    early: ClassVar[tuple[str, ...]] = ()

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """One number an output."""
        return (("beft_bias", (("X", 1), *outs)),)

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """None."""
        return ()

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen output and the bias."""
        bias = Parameter(f.tape, f"{linear.name}.beft_bias", (("X", 1), *linear.outs), self.dtype, f.tape.grad)
        y = frozen(f, linear, x)
        before = y.dtype
        return ops.cast(ops.add(y, matrices.taken(bias, linear.outs)), before)
