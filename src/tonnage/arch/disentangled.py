"""Attention to contents and to relative positions apart (arXiv:2006.03654), as DeBERTa's second version has it.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deberta_v2/
modeling_deberta_v2.py (DisentangledSelfAttention, build_relative_position, DebertaV2Encoder.forward)
"""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.tape import Grads, Parameter, Value
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor


class Distances(Record):
    """What every layer is handed: the table of relative positions, the distance of every pair, the mask.

    The tensors are counted beside the layers, where the model has them.

    Args:
        name: path of the table.
        rows: of it.
        D: residual width.
        norm: of the table; None for none.
    """

    name: str
    rows: int
    D: int
    norm: Norm | None

    def forward(self, f: Forward, x: Value) -> None:
        """Put them where the layers find them."""
        tape, (B, T) = f.tape, x.axes[:2]
        S = ("S", T[1])
        f.masks[None] = tape.new("mask of pairs", (B, ("X", 1), T, S), "fp32")
        f.masks[0] = tape.new("distances", (T, S), "int64")
        rows = _resident(tape.parameter(f"{self.name}.weight", (("P", self.rows), ("D", self.D))))
        f.bias = rows if self.norm is None else self.norm.forward(f, rows)


def _resident(weight: Parameter) -> Value:
    """A weight as a tensor, which takes nothing beside itself."""
    tape = weight.tape
    nothing = tape.new(weight.name, (("X", 0),), weight.dtype)
    out = Value(nothing.storage, weight.axes, weight.dtype)
    tape.record((out,), (weight,), lambda g: (g,), ())
    return out


class Disentangled(Record):
    """Scores of contents, of contents to positions and of positions to contents, added up.

    Args:
        name: path of the module below its layer.
        D: residual width.
        N: heads.
        H: width of a head.
        span: rows of the table of relative positions that are used.
        contents: contents attend to positions.
        positions: positions attend to contents.
        shared: positions go through the matrices of contents.
        dropout: of the attention weights.
        pos_dropout: of the table of positions.
    """

    name: str
    D: int
    N: int
    H: int
    span: int
    contents: bool
    positions: bool
    shared: bool
    dropout: float
    pos_dropout: float

    def _matrix(self, part: str) -> Linear:
        heads: Axes = (("N", self.N), ("H", self.H))
        return Linear(f"{self.name}.self.{part}_proj", (("D", self.D),), heads, "attention", bias=True)

    def _out(self) -> Linear:
        heads: Axes = (("N", self.N), ("H", self.H))
        return Linear(f"{self.name}.output.dense", heads, (("D", self.D),), "attention", bias=True)

    def weights(self) -> Iterator[Tensor]:
        """Queries, keys, values, the output's; and those of positions, where they have their own."""
        parts = [self._matrix(part) for part in ("query", "key", "value")] + [self._out()]
        if not self.shared:
            used = ((self.contents, "pos_key"), (self.positions, "pos_query"))
            parts += [self._matrix(part) for there, part in used if there]
        for part in parts:
            yield from part.weights()

    def forward(self, f: Forward, x: Value) -> Value:
        """Self-attention over ``x``."""
        q = _by_heads(self._matrix("query").forward(f, x))
        k = _by_heads(self._matrix("key").forward(f, x))
        v = _by_heads(self._matrix("value").forward(f, x))
        scores = self._product(q, ops.scaled(k, "scaled keys"), "scores")
        if f.bias is not None:
            table = ops.dropout(f.bias, self.pos_dropout, f.training)
            relative = self._relative(f, q, k, table)
            if relative is not None:
                scores = ops.add(scores, relative, "scores with positions")
        mask = f.tape.new("mask of pairs", f.masks[None].axes, "bool")
        scores = _filled(scores)
        weights = ops.dropout(ops.softmax(scores, label="attention weights"), self.dropout, f.training)
        axes = (*weights.axes[:3], v.axes[-1])
        out = ops.matmul(weights, v, axes, "attention output")
        out = ops.copy(out, (axes[0], axes[2], axes[1], axes[3]), "attention output, transposed")
        del mask, scores, weights, q, k, v
        f.local.append(out)
        return self._out().forward(f, out)

    @staticmethod
    def _product(a: Value, b: Value, label: str) -> Value:
        keys = ("S" if b.axes[2][0] == "T" else "P", b.axes[2][1])
        return ops.matmul(a, b, (*a.axes[:3], keys), label)

    def _relative(self, f: Forward, q: Value, k: Value, table: Value) -> Value | None:
        """Scores of both kinds, in one tensor."""
        B = q.axes[0]
        rows = table.view((("B", 1), ("T", self.span), ("D", self.D)))
        by = {"query": "query", "key": "key"} if self.shared else {"query": "pos_query", "key": "pos_key"}
        query = self._of_table(f, by["query"], rows, B) if self.shared or self.positions else None
        key = self._of_table(f, by["key"], rows, B) if self.shared or self.contents else None
        score, keep = None, []
        if self.contents and key is not None:
            found, index = self._gathered(f, q, key)
            keep += [found, index]
            score = ops.shifted(ops.scaled(found, "scaled by number"), "scores of positions")
        if self.positions and query is not None:
            found, index = self._gathered(f, k, query)
            keep += [found, index]
            part = ops.scaled(found, "scaled by number")
            score = ops.shifted(part, "scores of positions") if score is None else ops.add(score, part, in_place=True)
        return score

    def _of_table(self, f: Forward, part: str, rows: Value, B: tuple[str, int]) -> Value:
        """The table through a matrix, by heads, for every sequence."""
        heads = _by_heads(self._matrix(part).forward(f, rows))
        heads = heads.view((heads.axes[0], heads.axes[1], ("P", self.span), heads.axes[3]))
        return ops.copy(heads, (B, *heads.axes[1:]), "table for every sequence")

    def _gathered(self, f: Forward, x: Value, table: Value) -> tuple[Value, Value]:
        """Scores against the whole table, of which every pair takes its distance's; ``gather`` keeps both."""
        tape = f.tape
        scores = self._product(x, table, "scores of the table")
        moved = tape.new("distances, counted on", f.masks[0].axes, "int64")
        index = tape.new("distances within the table", f.masks[0].axes, "int64")
        del moved
        axes, dtype, whole = (*scores.axes[:3], ("S", x.axes[2][1])), scores.dtype, scores.axes
        out = tape.new("scores of positions", axes, dtype)

        def back(g: Value) -> Grads:
            return (tape.new("gradient of gathered", whole, dtype),)

        tape.record((out,), (scores,), back, (scores, index))
        return out, index


def _by_heads(x: Value) -> Value:
    """Heads before tokens, laid out anew; the view that split the heads copies the gradient back."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    B, T, N, H = before
    out = tape.new("heads first", (B, N, T, H), dtype)
    tape.record((out,), (x,), lambda g: (tape.new("tokens first again", before, dtype),), ())
    return out


def _filled(x: Value) -> Value:
    """``masked_fill(~mask, smallest)``: the inverted mask is kept."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    inverted = tape.new("what is hidden", (axes[0], ("X", 1), *axes[2:]), "bool")
    out = tape.new("masked scores", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of masked scores", axes, dtype),), (inverted,))
    return out
