"""Attention of a chunk of tokens over itself and the chunks beside it (Reformer, arXiv:2001.04451).

No kernel runs it: scores are matrices of a chunk by its neighbourhood, and their softmax is written out.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/reformer/modeling_reformer.py
(EfficientAttentionMixin, LocalSelfAttention)

Leaves out: a mask of padding, for which the class is given none; the copies that kernels of CUDA make for themselves of
what is not contiguous (the first layer's norm).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.exponentials import exp, log_sum_exp, picked
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear
from tonnage.arch.tape import Grads, Tape, Value, needs_grad
from tonnage.arch.untraced import untold
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor


class Neighbourhood(Record):
    """What a query of a chunk sees.

    Args:
        chunk: tokens of a chunk.
        before: chunks before a query's own.
        after: chunks behind it.
    """

    chunk: int
    before: int
    after: int

    def chunked(self, axes: Axes) -> Axes:
        """The axes ``B N T ...`` of a tensor as ``B N X T ...``: tokens in chunks."""
        return (*axes[:2], ("X", axes[2][1] // self.chunk), ("T", self.chunk), *axes[3:])

    def seen(self, x: Value) -> Value:
        """``_look_adjacent``: every chunk of ``x`` (axes ``B N X T ...``) with those beside it; the last ones wrap."""
        if not self.before and not self.after:
            return x
        (B, N, (_, n), (_, length)), rest = x.axes[:4], x.axes[4:]
        slices: list[Value] = []
        for i in range(-self.before, self.after + 1):
            if not i:
                slices.append(x)
                continue
            first = min(n, -i) if i < 0 else max(n - i, 0)
            parts = (ops.narrow(x, (B, N, ("X", c), ("T", length), *rest)) for c in (first, n - first))
            slices.append(ops.cat(tuple(parts), x.axes, "chunks moved on"))
        width = ("T", length * len(slices))
        return ops.cat(tuple(slices), (B, N, ("X", n), width, *rest), "chunks and those beside them")


class Adjacent(Record):
    """Attention within chunks: what both kinds of it have.

    Args:
        name: path of the module below its layer.
        D: residual width.
        N: heads.
        H: width of a head.
        near: what a query sees.
        dropout: of the attention weights.
        drops: of the output.
        causal: whether later tokens are hidden.
    """

    working_set_modelled: ClassVar[bool] = False
    """Whether a pass that is not run again by its layer is modelled."""
    names: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[str, ...]] = ("mask_value_float16", "mask_value_float32")

    name: str
    D: int
    N: int
    H: int
    near: Neighbourhood
    dropout: float = 0.0
    drops: float = 0.0
    causal: bool = False

    def matrices(self) -> tuple[Linear, ...]:
        """Those of the heads."""
        heads: Axes = (("N", self.N), ("H", self.H))
        return tuple(
            Linear(f"{self.name}.self_attention.{n}", (("D", self.D),), heads, "attention") for n in self.names
        )

    def output(self) -> Linear:
        """From the heads to the residual stream."""
        heads: Axes = (("N", self.N), ("H", self.H))
        return Linear(f"{self.name}.output.dense", heads, (("D", self.D),), "attention")

    def weights(self) -> Iterator[Tensor]:
        """Matrices, and the numbers that hide scores."""
        for matrix in (*self.matrices(), self.output()):
            yield from matrix.weights()
        for mask in self.masks:
            yield Tensor(f"{self.name}.self_attention.{mask}", (), "buffer")

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """What goes into a decoder's layer, in the place of keys and values."""
        if self.causal:
            yield Tensor("hidden states", (("B", B), ("S", S), ("D", self.D)), "cache")

    def forward(self, f: Forward, x: Value) -> Value:
        """Refused: the layer runs it."""
        raise untold("a reversible layer")

    def attend(self, f: Forward, x: Value, buckets: Value | None) -> tuple[Value, Value | None]:
        """The normed ``x``, which the caller goes on holding, to the block's output.

        Returns that, and the bucket of every token where tokens are sorted by buckets; given them, it makes no new
        ones.
        """
        heads, buckets = self.heads(f, x, buckets)
        return ops.dropout(self.output().forward(f, heads), self.drops, f.training), buckets

    def heads(self, f: Forward, x: Value, buckets: Value | None) -> tuple[Value, Value | None]:
        """Of the same, the heads' outputs, axes ``B T N H``."""
        raise NotImplementedError

    def hidden(self, tape: Tape, scores: Value) -> Value:
        """Scores without later tokens."""
        if not self.causal:
            return scores
        return picked(tape.new("causal mask", scores.axes, "bool"), scores)


class Local(Adjacent):
    """Attention within chunks in the order of the tokens, ``N`` heads of width ``H``."""

    names: ClassVar[tuple[str, ...]] = ("query", "key", "value")

    def heads(self, f: Forward, x: Value, buckets: Value | None) -> tuple[Value, Value | None]:
        """The heads' outputs; no buckets."""
        tape, near = f.tape, self.near
        queries, keys, values = [matrix.forward(f, x) for matrix in self.matrices()]
        queries, keys, values = by_heads(queries), by_heads(keys), by_heads(values)
        keys = ops.scaled(keys, "scaled keys")
        indices = numbered(tape, queries.axes)
        chunked = x.axes[1][1] > near.chunk
        if chunked:
            queries, keys, values = (
                in_chunks(queries, near),
                in_chunks(keys, near, turned=True),
                in_chunks(values, near),
            )
            places = indices.view(near.chunked(indices.axes))
            keys = near.seen(keys)
            values = near.seen(values)
            places = near.seen(places)
        looks = chunked and near.before + near.after > 0
        lies = lies_by_tokens(queries), not looks and lies_by_tokens(keys)
        axes = (*queries.axes[:-1], ("S", keys.axes[-2][1]))
        scores = multiplied(queries, keys, axes, "scores", by_tokens=lies)
        del queries, keys
        scores = self.hidden(tape, scores)
        logits = log_sum_exp(scores, (*scores.axes[:-1], ("X", 1)))
        weights = exp(ops.sub(scores, logits), "attention weights")
        del logits
        weights = ops.dropout(weights, self.dropout, f.training)
        axes = (*weights.axes[:-1], values.axes[-1])
        out = multiplied(weights, values, axes, "attention output", by_tokens=(False, lies[1]))
        del values
        return merged(out, x.axes), None


def numbered(tape: Tape, axes: Axes) -> Value:
    """Numbers of the tokens for every head: ``torch.arange(T).repeat(B, N, 1)``."""
    numbers = tape.new("numbers of tokens", axes[2:3], "int64")
    repeated = tape.new("numbers of tokens of every head", axes[:3], "int64")
    del numbers
    return repeated


def by_heads(x: Value) -> Value:
    """``x.view(B, T, N, H).transpose(1, 2)``: a view, whose gradient lies by heads and is copied."""
    B, T, N, H = x.axes
    return _view(x, (B, N, T, H), copies=1 not in (T[1], N[1]))


def in_chunks(x: Value, near: Neighbourhood, *, turned: bool = False) -> Value:
    """Tokens in chunks: a view. Its gradient is copied where it is that of the transposed factor (``turned``)."""
    axes = near.chunked(x.axes)
    return _view(x, axes, copies=turned and 1 not in (axes[2][1], axes[3][1], axes[4][1]))


def _view(x: Value, axes: Axes, *, copies: bool) -> Value:
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = Value(x.storage, axes, dtype)

    def back(g: Value) -> Grads:
        return (tape.new("gradient of view", before, dtype) if copies else g.view(before),)

    tape.record((out,), (x,), back, ())
    return out


def multiplied(a: Value, b: Value, axes: Axes, label: str, *, by_tokens: tuple[bool, bool] = (False, False)) -> Value:
    """``torch.matmul`` of tensors of which all but the last two axes are seen as one.

    A factor that lies ``by_tokens``, tokens before heads, is copied for that. The factors' gradients are views of what
    the products make.
    """
    a, b = ops.lowered(a), ops.lowered(b)
    left = ops.copy(a, label="heads first") if by_tokens[0] else a
    right = ops.copy(b, label="heads first") if by_tokens[1] else b
    tape, axes_a, axes_b, dtype = a.tape, left.axes, right.axes, a.dtype
    out = tape.product(label, axes, dtype)
    grad_a, grad_b = needs_grad(left), needs_grad(right)

    def gradient(label: str, axes: Axes) -> Value:
        made = tape.product(label, axes, dtype)
        made.storage.viewed = True
        return made

    def back(g: Value) -> Grads:
        gb = gradient("gradient of right factor", axes_b) if grad_b else None
        return gradient("gradient of left factor", axes_a) if grad_a else None, gb

    saved = (*((left,) if grad_b else ()), *((right,) if grad_a else ()))
    tape.record((out,), (left, right), back, saved)
    return out


def lies_by_tokens(x: Value) -> bool:
    """Whether leading axes of what ``by_heads`` made, in chunks or not, cannot be seen as one."""
    return x.axes[1][1] > 1 and (len(x.axes) > 4 or (x.axes[0][1] > 1 and x.axes[2][1] > 1))


def merged(x: Value, axes: Axes) -> Value:
    """Heads' outputs, axes ``B N T H`` or in chunks, as ``B T N H``: a copy, whose gradient is copied as well."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    (B, T, *_), N, H = axes, before[1], before[-1]
    if 1 in (T[1], N[1]):
        return x.view((B, T, N, H))
    out = tape.new("attention output, transposed", (B, T, N, H), dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient by heads", before, dtype),), ())
    return out
