"""Attention of every token over a window, by products of chunks that overlap (Longformer, arXiv:2004.05150).

Scores are put together in one tensor, slice by slice and in place, whose gradients autograd takes apart the same way.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/longformer/modeling_longformer.py
(LongformerSelfAttention); https://github.com/pytorch/pytorch/blob/v2.13.0/ torch/csrc/autograd/functions/tensor.cpp
(CopySlices), torch/csrc/autograd/FunctionsManual.cpp (as_strided_backward)

Leaves out: tokens that all others see (``global_attention_mask``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from tonnage.arch import ops
from tonnage.arch.exponentials import picked
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear
from tonnage.arch.sparse.sparse_ends import CHOSEN, PAIRS
from tonnage.arch.tape import Grads, Tape, Value, needs_grad
from tonnage.arch.untraced import untold
from tonnage.errors import UnsupportedError
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor


class Sliding(Record):
    """Attention over ``2 w + 1`` tokens; matrices of their own for tokens that all others see are not run.

    Args:
        name: path of the module below its layer.
        D: residual width.
        N: heads.
        H: width of a head.
        w: tokens that are seen on either side.
        dropout: of the attention weights.
    """

    module: ClassVar[str] = "attention"
    working_set_modelled: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    GLOBAL: ClassVar[tuple[str, ...]] = ("query_global", "key_global", "value_global")

    name: str
    D: int
    N: int
    H: int
    w: int
    dropout: float = 0.0

    def _matrix(self, part: str) -> Linear:
        return Linear(f"{self.name}.{part}", (("D", self.D),), (("D", self.D),), "attention", True)

    def weights(self) -> Iterator[Tensor]:
        """Matrices of the window, of the output, and of tokens that all others see."""
        for part in ("self.query", "self.key", "self.value", "output.dense", *(f"self.{n}" for n in self.GLOBAL)):
            yield from self._matrix(part).weights()

    def forward(self, f: Forward, x: Value) -> Value:
        """The block's output; what it is made of is named until the layer has normed the sum."""
        if f.tuning is not None:
            raise untold(
                "Longformer's attention with adapters or packed weights", "all weights as they are: --quant none"
            )
        if not f.tape.grad:
            raise untold("Longformer's attention")
        tokens, window = x.axes[1][1], 2 * self.w
        if tokens % window:
            raise UnsupportedError(
                f"sequences of {tokens:,} tokens are not modelled: Longformer pads them to a multiple of its window of "
                f"{window:,}", key="seq", value=tokens, hint=f"--seq {-(-tokens // window) * window}",
            )  # fmt: skip
        for key in (PAIRS, CHOSEN):
            f.masks.get(key)
        out = self._attended(f, x)
        f.local.append(out)
        return _turned(f, self._matrix("output.dense"), out, x.axes)

    def _attended(self, f: Forward, x: Value) -> Value:
        tape, (B, T, D) = f.tape, x.axes
        turned: Axes = (T, B, D)
        queries, keys, values = (_turned(f, self._matrix(f"self.{n}"), x, turned) for n in ("query", "key", "value"))
        queries = ops.scaled(queries, "scaled queries", in_place=True)
        scores = self._scores(tape, queries, keys, B, T, self.N)
        beyond = tape.new("tokens that are hidden or see all", (B, T), "bool")
        hidden = _numbers(tape, (B, T), queries.dtype)
        diagonal = self._diagonal(tape, hidden, B, T)
        scores = _added_in_place(scores)
        scores = _read(scores)
        weights = ops.softmax(scores, dtype="fp32", label="attention weights")
        weights = _hidden(f, weights)
        form = scores.dtype
        weights = ops.cast(weights, form)
        del scores
        weights = ops.dropout(weights, self.dropout, f.training)
        out = self._context(weights, values, B, T)
        out = _laid_out(out, (T, B, D), "attention output, transposed", "gradient by heads")
        del queries, keys, values, beyond, hidden, diagonal, weights
        return out

    def _scores(self, tape: Tape, queries: Value, keys: Value, B: Any, T: Any, N: int) -> Value:
        """``_sliding_chunks_query_key_matmul``: scores of every token's window, axes ``B T N S``, not yet read."""
        w, rows = self.w, ("X", B[1] * N)
        chunks = ("C", T[1] // self.w - 1)
        left = _strided(queries, (rows, chunks, ("T", 2 * w), ("H", self.H)), "queries in chunks")
        right = _strided(keys, (rows, chunks, ("T", 2 * w), ("H", self.H)), "keys in chunks", turned=True)
        found = ops.matmul(left, right, (rows, chunks, ("T", 2 * w), ("S", 2 * w)), "scores of chunks")
        del left, right
        padded = _padded(found, (rows, chunks, ("T", 2 * w), ("S", 2 * w + 1)), "padded scores of chunks")
        del found
        return self._diagonals(tape, padded, B, T, N)

    def _diagonals(self, tape: Tape, chunks: Value, B: Any, T: Any, N: int) -> Value:
        w, (rows, C, *_) = self.w, chunks.axes
        W = ("S", 2 * w + 1)
        base = tape.new("scores", (B, T, ("N", N), W), chunks.dtype)
        some: Axes = (rows, C, ("T", w), W)
        one: Axes = (rows, ("T", 2 * w), W)

        def part(*views: Axes) -> Value:
            x = chunks
            for axes in views:
                x = ops.narrow(x, axes)
            return x

        base = _assigned(base, part(some, (rows, C, ("T", w), ("S", w + 1))))
        base = _assigned(base, part(one, (rows, ("T", w), W), (rows, ("T", w), ("S", w + 1))))
        base = _assigned(base, part(some, (rows, C, ("T", w), ("S", w))))
        base = _assigned(base, part(one, (rows, ("T", w - 1), W), (rows, ("T", w - 1), ("S", w - 1))))
        return self._without_ends(tape, base)

    def _without_ends(self, tape: Tape, base: Value) -> Value:
        """``_mask_invalid_locations``: what lies before the first token and behind the last."""
        w, (B, _, N, W) = self.w, base.axes
        corner: Axes = (("T", w), ("S", w + 1))
        ones = tape.new("ones", corner, base.dtype)
        below = tape.new("triangle", corner, base.dtype)
        del ones
        first = tape.new("mask of the first tokens", corner, base.dtype)
        del below
        last = tape.new("mask of the last tokens", corner, base.dtype)
        for _ in range(2):
            seen = ops.narrow(ops.narrow(_read(base), (B, ("T", w), N, W)), (B, ("T", w), N, ("S", w + 1)))
            base = _assigned(base, self._filled(tape, seen))
            del seen
        del first, last
        return base

    @staticmethod
    def _filled(tape: Tape, x: Value) -> Value:
        lowest = tape.new("lowest numbers", x.axes, x.dtype)
        found = picked(tape.new("mask of ends", x.axes, "bool"), x, "ends without what lies beyond")
        del lowest
        return found

    def _diagonal(self, tape: Tape, hidden: Value, B: Any, T: Any) -> Value:
        """The same of a mask of one number a token, from which no gradient comes."""
        w, ones = self.w, tape.new("ones", hidden.axes, hidden.dtype)
        chunks = ("C", T[1] // self.w - 1)
        found = tape.new("mask of chunks", (B, chunks, ("T", 2 * w), ("S", 2 * w)), hidden.dtype)
        padded = tape.new("padded mask of chunks", (B, chunks, ("T", 2 * w), ("S", 2 * w + 1)), hidden.dtype)
        del found
        diagonal = self._diagonals(tape, padded, B, T, 1)
        del ones
        return diagonal

    def _context(self, weights: Value, values: Value, B: Any, T: Any) -> Value:
        """``_sliding_chunks_matmul_attn_probs_value``: the heads' outputs."""
        w, rows, chunks = self.w, ("X", B[1] * self.N), ("C", T[1] // self.w)
        by_heads: Axes = (rows, chunks, ("T", w), ("S", 2 * w + 1))
        chunked = ops.copy(weights, by_heads, "attention weights by heads")
        values = _viewed(values, (rows, T, ("H", self.H)))
        padded = _padded(values, (rows, ("T", T[1] + 2 * w), ("H", self.H)), "padded values")
        wide = _strided(padded, (rows, chunks, ("T", 3 * w), ("H", self.H)), "values in chunks", copies=False)
        moved = _padded(chunked, (rows, chunks, ("T", w), ("S", 3 * w + 2)), "padded attention weights")
        del chunked
        moved = ops.narrow(moved, (rows, chunks, ("T", w * (3 * w + 1))))
        moved = moved.view((rows, chunks, ("T", w), ("S", 3 * w + 1)))
        moved = ops.narrow(moved, (rows, chunks, ("T", w), ("S", 3 * w)))
        wide = ops.copy(wide, label="values in chunks")
        return ops.matmul(moved, wide, (rows, chunks, ("T", w), ("H", self.H)), "attention output")


def _turned(f: Forward, matrix: Linear, x: Value, axes: Axes) -> Value:
    """A matrix product of batch and tokens that lie the other way round: of a copy, to whose product the bias is added.

    A single sequence is only seen so. Outside of a dispatch mode, which a trace is, the bias is added in place.
    """
    if 1 in (axes[0][1], axes[1][1]):
        return matrix.plain(f, x.view(axes))
    tape = f.tape
    bias = ops.lowered_weight(tape.parameter(f"{matrix.name}.bias", matrix.outs))
    weight = tape.parameter(f"{matrix.name}.weight", matrix.outs + matrix.ins)
    copied = ops.copy(ops.lowered(x), axes, "tokens first")
    out = ops.linear(copied, weight, None, 1, matrix.outs)
    del copied
    return ops.add(out, bias, "with bias", in_place=True)


def _laid_out(x: Value, axes: Axes, label: str, behind: str) -> Value:
    """A copy in another order, whose gradient is copied as well."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new(label, axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new(behind, before, dtype),), ())
    return out


def _viewed(x: Value, axes: Axes) -> Value:
    """Heads before tokens: a view whose gradient is copied."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = Value(x.storage, axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient by tokens", before, dtype),), ())
    return out


def _padded(x: Value, axes: Axes, label: str) -> Value:
    """``F.pad``: a copy whose gradient is cut out of its own."""
    return _laid_out(x, axes, label, "gradient without padding")


def _strided(x: Value, axes: Axes, label: str, *, turned: bool = False, copies: bool = True) -> Value:
    """``x.as_strided(...)`` where rows overlap, and the copy of it that a product takes.

    Its gradient is added up by the index of every element, counted for the whole of ``x`` and copied for the view;
    that of a transposed factor (``turned``) is copied first. A single stretch is only seen so.
    """
    tape, before, dtype, overlaps = x.tape, x.axes, x.dtype, axes[1][1] > 1
    out = Value(x.storage, axes, dtype)

    def back(g: Value) -> Grads:
        found = tape.new("gradient of strided", before, dtype)
        if not overlaps:
            return (found,)
        numbers = tape.new("numbers of elements", before, "int64")
        laid_out = tape.new("gradient, laid out", axes, dtype) if turned else None
        places = tape.new("places of elements", axes, "int64")
        del places, laid_out, numbers
        return (found,)

    tape.record((out,), (x,), back, ())
    return ops.copy(out, label=label) if copies and overlaps else out


def _assigned(base: Value, part: Value) -> Value:
    """``base[...] = part``: in place; the gradient of the whole is copied, with zeros where the part was."""
    tape, whole, slice_, dtype = base.tape, base.axes, part.axes, base.dtype
    out = Value(base.storage, whole, dtype)
    before = needs_grad(base)

    def back(g: Value) -> Grads:
        found = tape.new("gradient of whole", whole, dtype)
        of_part = tape.new("gradient of part", slice_, dtype)
        if not before:
            return None, of_part
        zeros = tape.new("no gradient", slice_, dtype)
        del zeros
        return found, of_part

    tape.record((out,), (base, part), back, ())
    return out


def _added_in_place(base: Value) -> Value:
    """``view += mask``: of a view of the whole, so that its gradient is copied twice."""
    tape, whole, dtype = base.tape, base.axes, base.dtype
    out = Value(base.storage, whole, dtype)

    def back(g: Value) -> Grads:
        found = tape.new("gradient of whole", whole, dtype)
        tape.new("gradient of part", whole, dtype)
        return (found,)

    tape.record((out,), (base,), back, ())
    return out


def _read(base: Value) -> Value:
    """A view of what was written to in place, whose gradient is laid out anew."""
    tape, whole, dtype = base.tape, base.axes, base.dtype
    out = Value(base.storage, whole, dtype)
    tape.record((out,), (base,), lambda g: (tape.new("gradient of view", whole, dtype),), ())
    return out


def _numbers(tape: Tape, axes: Axes, dtype: str) -> Value:
    """The lowest number where a token is not simply seen."""
    cast = tape.new("mask in numbers", axes, dtype)
    found = tape.new("lowest numbers of the mask", axes, dtype)
    del cast
    return found


def _hidden(f: Forward, weights: Value) -> Value:
    """``masked_fill`` of hidden tokens by a mask that layers share and steps keep."""
    tape, axes, dtype = f.tape, weights.axes, weights.dtype
    mask = f.masks[None]
    out = tape.new("attention weights of what is seen", axes, dtype)
    tape.record((out,), (weights,), lambda g: (tape.new("gradient of seen", axes, dtype),), (mask,))
    return out
