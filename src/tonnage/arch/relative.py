"""A bias of scores that every layer shares and that is learned: one number a head for each distance (arXiv:1910.10683).

MPNet makes it before its layers; T5 in its first one, and every layer makes of it what its kernel takes.

References: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/ models/mpnet/modeling_mpnet.py
(MPNetEncoder.compute_position_bias, relative_position_bucket), models/t5/modeling_t5.py (T5Attention.compute_bias),
integrations/sdpa_attention.py (create_position_bias_mask);
https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/transformers/attention.cpp (pad_bias)
"""

from __future__ import annotations

from typing import Protocol

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Grads, Value
from tonnage.record import Record
from tonnage.tensors import Axes, Axis, size


class RelativeBias(Record):
    """Distances in buckets, a row of the table for each, laid out for every sequence and head.

    Args:
        name: path of the table, which the model counts beside its layers.
        rows: buckets.
        N: heads.
    """

    name: str
    rows: int
    N: int

    def forward(self, f: Forward, x: Value) -> None:
        """Put the bias, axes ``B N T S``, where the layers find it."""
        tape, (B, T) = f.tape, x.axes[:2]
        S = ("S", T[1])
        near = self._buckets(f, (T, S))
        weight = tape.parameter(f"{self.name}.weight", (("X", self.rows), ("N", self.N)))
        values = ops.embedding(near, weight, (("N", self.N),))
        del near
        f.bias = ops.copy(values, (B, ("N", self.N), T, S), "position bias")

    def _buckets(self, f: Forward, axes: Axes) -> Value:
        """The bucket of every pair, through tensors of 8 B a pair."""
        tape = f.tape

        def pairs(label: str, dtype: str = "int64") -> Value:
            return tape.new(label, axes, dtype)

        places = tape.new("positions", axes[:1], "int64"), tape.new("positions", axes[1:], "int64")
        distance = pairs("distance")
        n = pairs("distance, negated")
        sign = pairs("whether before", "bool")
        wide = pairs("whether before, as numbers")
        del sign
        found = pairs("buckets")
        del wide
        n = pairs("distance")
        small = pairs("whether near", "bool")
        part = pairs("distance, in floats", "fp32")
        part = pairs("share of the nearest", "fp32")
        part = pairs("logarithm", "fp32")
        part = pairs("logarithm, scaled", "fp32")
        part = pairs("logarithm, scaled twice", "fp32")
        part = pairs("bucket of the far")
        part = pairs("bucket of the far, counted on")
        most = pairs("last bucket")
        part = pairs("bucket of the far, at most")
        del most
        chosen = pairs("bucket within its half")
        # Added in place.
        del chosen, part, small, n, distance, places
        return found


class Biased(Protocol):
    """What is asked of the block whose scores get the bias."""

    @property
    def name(self) -> str:
        """Path of the module below its layer."""
        ...

    @property
    def N(self) -> int:  # noqa: N802
        """Query heads."""
        ...

    @property
    def buckets(self) -> int | None:
        """Rows of the table, where the block holds it."""
        ...

    @property
    def position_bias(self) -> str | None:
        """Whether layers share it."""
        ...

    @property
    def cross(self) -> bool:
        """Whether keys are the encoder's."""
        ...

    @property
    def causal(self) -> bool:
        """Whether later tokens are hidden."""
        ...


def shared_bias(f: Forward, a: Biased, q: Value, k: Value) -> Value:
    """The bias of T5's layers, axes ``T S N``: the first layer looks it up, and over the encoder makes one of zeros.

    umT5's layers each do so for themselves.
    """
    T, S = (("T", _tokens(q)), ("S", _tokens(k)))
    if a.position_bias == "own":
        made = f.tape.new("position bias of zeros", (T, S, ("N", a.N)), q.dtype) if a.cross else _looked_up(f, a, T, S)
        # The block's code names it to its end.
        f.local.append(made)
        return made
    if a.cross:
        if f.zeros is None:
            f.zeros = f.tape.new("position bias of zeros", (T, S, ("N", a.N)), q.dtype)
            if f.checkpoints:
                # So that checkpoints with reentrance see that it needs a gradient.
                f.tape.start(f.zeros, held=True)
        return f.zeros
    if f.bias is None:
        f.bias = _looked_up(f, a, T, S)
    return f.bias


def _looked_up(f: Forward, a: Biased, T: Axis, S: Axis) -> Value:
    near = _distances(f, (T, S), causal=a.causal)
    weight = f.tape.parameter(f"{a.name}.relative_attention_bias.weight", (("X", a.buckets or 0), ("N", a.N)))
    found = ops.embedding(near.pop(0), weight, (("N", a.N),))
    near.clear()
    return found


def _tokens(x: Value) -> int:
    return next(n for letter, n in x.axes if letter in "TS")


def _distances(f: Forward, axes: Axes, *, causal: bool) -> list[Value]:
    """The bucket of every pair, and what the code that asks for it names until it is looked up."""
    tape = f.tape

    def pairs(label: str, dtype: str = "int64") -> Value:
        return tape.new(label, axes, dtype)

    places = tape.new("positions of queries", axes[:1], "int64")
    named = [tape.new("positions of queries, counted on", axes[:1], "int64")]
    del places
    named += [tape.new("positions of keys", axes[1:], "int64"), pairs("distance")]
    if causal:
        found = pairs("zeros")
        least = pairs("distance, at most none")
        del found
        n = pairs("distance, negated")
        del least
    else:
        sign = pairs("whether behind", "bool")
        wide = pairs("whether behind, as numbers")
        del sign
        found = pairs("buckets of the sign")
        del wide
        found = pairs("buckets")
        n = pairs("distance, without sign")
    small = pairs("whether near", "bool")
    part = pairs("distance, in floats", "fp32")
    for label in ("share of the nearest", "logarithm", "logarithm, scaled", "logarithm, scaled twice"):
        part = pairs(label, "fp32")
    part = pairs("bucket of the far")
    part = pairs("bucket of the far, counted on")
    most = pairs("last bucket")
    part = pairs("bucket of the far, at most")
    del most
    chosen = pairs("bucket within its half")
    if causal:
        found = pairs("buckets")
    # Else added in place.
    del chosen, part, small, n
    return [found, *named]


def additive(f: Forward, a: Biased, mask: Value | None, pairs: Axes) -> Value:
    """The bias as ``scaled_dot_product_attention`` is given it, axes ``X N T S``: laid out by heads, with what hides
    later tokens."""
    assert f.position is not None
    tape, bias = f.tape, f.position
    axes: Axes = (("X", 1), ("N", a.N), *pairs)
    if a.cross:
        return bias.view(axes)
    if not a.causal and mask is None:
        return ops.copy(bias, axes, "position bias by heads")
    if mask is None:
        places = tape.new("positions of queries", pairs[:1], "int64"), tape.new("positions of keys", pairs[1:], "int64")
        mask = tape.new("earlier tokens", pairs, "bool")
        del places
    hidden = tape.new("hidden score", (), bias.dtype)
    whole: Axes = (mask.axes[0], *bias.axes) if len(mask.axes) > len(pairs) and mask.axes[0][1] > 1 else bias.axes
    chosen = tape.new("position bias, masked", whole, bias.dtype)
    before, dtype = bias.axes, bias.dtype

    def back(g: Value) -> Grads:
        zero = tape.new("zero", (), dtype)
        grad = tape.new("gradient of position bias", whole, dtype)
        del zero
        return (ops.fitted(grad, before, dtype),)

    tape.record((chosen,), (bias,), back, (mask,))
    del hidden
    return ops.copy(chosen, (mask.axes[0], *axes[1:]) if whole is not bias.axes else axes, "position bias by heads")


def aligned(bias: Value, axes: Axes) -> Value:
    """A bias as the memory-efficient kernel takes it: its rows padded to eight, and seen as one for each sequence."""
    letter, keys = axes[-1]
    if keys % 8:
        bias = ops.narrow(_padded(bias, (letter, -(-keys // 8) * 8)), bias.axes)
    return bias if size(bias.axes) == size(axes) else ops.expand(bias, axes)


def _padded(x: Value, last: Axis) -> Value:
    """``F.pad`` of the last axis: its gradient is a copy of the part that was there."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("attention bias, padded", (*before[:-1], last), dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of bias, cut", before, dtype),), ())
    return out
