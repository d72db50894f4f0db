"""Embeddings and heads of encoders whose attention is sparse, with the masks that they make for all layers.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/ (longformer/
modeling_longformer.py: LongformerEmbeddings, LongformerModel; big_bird/modeling_big_bird.py: BigBirdEmbeddings,
BigBirdModel)
"""

from __future__ import annotations

from typing import Final

from tonnage.arch import ops
from tonnage.arch.ends import Head, Stem
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear
from tonnage.arch.tape import Value
from tonnage.tensors import Axes, Axis

PAIRS: Final = -1
CHOSEN: Final = -2
"""Masks beside those of windows: what layers are called with, and a checkpoint of them holds."""
BAND: Final = -1
"""The mask of neighbours, beside the one of ones: as layers find it among masks of windows."""


class Masked(Stem):
    """RoBERTa's embedding, and a mask of every token by every other, of which one row is looked at.

    All of it is named until the model returns; the layers share the mask of hidden tokens that is made of it.
    """

    def forward(self, f: Forward, ids: Value) -> Value:
        """Token ids (axes ``B T``) to the first layer's input."""
        tape, (B, T) = f.tape, ids.axes
        ones = tape.new("mask of ones", (B, T), "fp32")
        types = tape.new("token types", (B, T), "int64")
        x = self._embedded(f, ids, types)
        clamped = tape.new("clamped mask", (B, T), "fp32")
        known = tape.new("tokens that are no padding", (B, T), "bool")
        del clamped
        pairs: Axes = (B, ("X", 1), T, ("S", T[1]))
        seen = tape.new("pairs of tokens", pairs, "bool")
        shown, lowest = (tape.new("number of a mask", (), x.dtype) for _ in range(2))
        f.masks[PAIRS] = tape.new("mask of pairs", pairs, x.dtype)
        del seen, known, shown, lowest
        f.masks[None] = tape.new("hidden tokens", (B, T), "bool")
        f.masks[CHOSEN] = tape.new("tokens that see all", (B, T), "bool")
        f.frame += [ones, x]
        return x

    def _embedded(self, f: Forward, ids: Value, types: Value) -> Value:
        tape, width = f.tape, (("D", self.D),)
        numbers = tape.new("positions", ids.axes, "int64")
        words = ops.embedding(ids, tape.parameter(f"{self.name}.weight", (("V", self.V), *width)), width)
        of_types, of_places = self.tables
        rows = {t: tape.parameter(f"{t.name}.weight", (("P", t.rows), *width)) for t in self.tables}
        places = ops.embedding(numbers, rows[of_places], width)
        kinds = ops.embedding(types, rows[of_types], width)
        x = ops.add(ops.add(words, places, "words and places"), kinds, "embedding")
        assert self.norm is not None
        x = ops.dropout(self.norm.forward(f, x), self.dropout, f.training)
        del words, places, kinds
        return x


class Blocked(Stem):
    """BERT's embedding, and masks that are made of one of ones.

    Args:
        block: tokens of a block.
    """

    block: int = 64

    def forward(self, f: Forward, ids: Value) -> Value:
        """Token ids (axes ``B T``) to the first layer's input."""
        tape, (B, T) = f.tape, ids.axes
        f.masks[None] = tape.new("mask of ones", (B, T), "fp32")
        x = self._embedded(f, ids)
        between: tuple[Axis, Axis] = (("X", max(T[1] // self.block - 4, 0)), ("S", 3 * self.block))
        joined = tape.new("mask of neighbours, joined", (B, *between), "fp32")
        # A product by its letters is one that autocast runs in 16 bit.
        lowered = ops.lowered(joined)
        f.masks[BAND] = tape.new("mask of neighbours", (B, between[0], ("T", self.block), between[1]), lowered.dtype)
        del joined, lowered
        f.frame.append(x)
        return x

    def _embedded(self, f: Forward, ids: Value) -> Value:
        tape, width = f.tape, (("D", self.D),)
        words = ops.embedding(ids, tape.parameter(f"{self.name}.weight", (("V", self.V), *width)), width)
        words = ops.scaled(words, "scaled embedding") if self.scaled else words
        of_types, of_places = (tape.parameter(f"{t.name}.weight", (("P", t.rows), *width)) for t in self.tables)
        kinds = ops.embedding(Value(f.masks[None].storage, ids.axes, "int64"), of_types, width, kept=False)
        x = ops.add(words, kinds, "words and types")
        row = Value(f.masks[None].storage, (("B", 1), ids.axes[1]), "int64")
        places = ops.embedding(row, of_places, width, kept=False)
        x = ops.add(x, places, "embedding", in_place=True)
        assert self.norm is not None
        x = ops.dropout(x, self.dropout, f.training)
        x = self.norm.forward(f, x)
        del words, kinds, places
        return x


class Pooling(Head):
    """BERT's head behind a pooler that every class runs and no loss looks at: its output is named until that is there.

    Args:
        pools: width of the pooler.
    """

    pools: int = 0

    def forward(self, f: Forward, x: Value) -> Value:
        """Hidden states to logits."""
        tape, D = f.tape, (("D", self.pools),)
        # No gradient comes to it.
        recording, tape.recording = tape.recording, False
        given = ops.lowered(ops.narrow(x, (x.axes[0], x.axes[2])))
        product = Linear("bert.pooler", D, D, "pooler", True).plain(f, given)
        pooled = tape.new("pooled token", product.axes, product.dtype)
        del product
        tape.recording = recording
        f.local += [given.detached(), pooled]
        return super().forward(f, x)
