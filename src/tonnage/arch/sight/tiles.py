"""Pictures in tiles, seen by layers of the language model that attend to them (Llama 3.2 Vision).

Every picture takes as many tiles as it may have: what is no picture is hidden by masks.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mllama/modeling_mllama.py
(MllamaVisionModel, MllamaModel.forward, _prepare_aspect_ratio_attention_mask, _prepare_cross_attention_mask).

Leaves out: what cuDNN takes for a convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.forward import BESIDE, Forward
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer
from tonnage.arch.sight.pictures import Eye, Pictures
from tonnage.arch.sight.towers import Patches, expanded, numbered
from tonnage.arch.tape import Grads, Tape, Value
from tonnage.record import Record
from tonnage.tensors import Axes, Axis, Tensor

PADDED = 8
"""Rows of a tile are padded to a multiple of it."""


class TilePlaces(Record):
    """A row for every tile by the shape of the picture, through a gate.

    Args:
        name: path of the module.
        ids: shapes.
        tiles: of a picture.
        D: width of a row.
    """

    name: str
    ids: int
    tiles: int
    D: int

    def weights(self) -> Iterator[Tensor]:
        """Gate and table."""
        yield Tensor(f"{self.name}.gate", (("X", 1),), "vision")
        yield Tensor(f"{self.name}.embedding.weight", (("P", self.ids), ("D", self.tiles * self.D)), "vision")

    def added(self, f: Forward, x: Value, ids: Value) -> Value:
        """``x`` (axes ``B X T D``, tiles second) and the rows."""
        gate = f.tape.parameter(f"{self.name}.gate", (("X", 1),))
        table = f.tape.parameter(f"{self.name}.embedding.weight", (("P", self.ids), ("D", self.tiles * self.D)))
        axes: Axes = (x.axes[0], x.axes[1], ("T", 1), x.axes[3])
        found = ops.embedding(ids, table, (("D", self.tiles * self.D),)).view(axes)
        found = ops.mul(found, ops.unary(gate, "tanh", saves="output"), "gated places", axes=axes)
        return ops.add(x, found, "rows and places")


class Places(Record):
    """A row for every patch, and one for every patch of every tile by the shape of the picture, through one gate.

    Args:
        name: path of the module.
        ids: shapes.
        tiles: of a picture.
        rows: patches of a tile, and one more.
        D: width of a row.
    """

    name: str
    ids: int
    tiles: int
    rows: int
    D: int

    @property
    def _table(self) -> Axes:
        return ("P", self.ids), ("D", self.tiles * self.rows * self.D)

    def weights(self) -> Iterator[Tensor]:
        """Gate and both tables."""
        yield Tensor(f"{self.name}.gate", (("X", 1),), "vision")
        yield Tensor(f"{self.name}.embedding", (("P", self.rows), ("D", self.D)), "vision")
        yield Tensor(f"{self.name}.tile_embedding.weight", self._table, "vision")

    def added(self, f: Forward, x: Value, ids: Value) -> Value:
        """``x`` (axes ``B X T D``) and both."""
        tape = f.tape
        gate = tape.parameter(f"{self.name}.gate", (("X", 1),))
        tape.several(gate)
        own = tape.parameter(f"{self.name}.embedding", (("P", self.rows), ("D", self.D)))
        gated = ops.mul(ops.shifted(ops.unary(gate, "tanh", saves="output")), own, "gated places", axes=own.axes)
        x = ops.add(x, gated, "rows and places")
        table = tape.parameter(f"{self.name}.tile_embedding.weight", self._table)
        found = ops.embedding(ids, table, (self._table[1],)).view(x.axes)
        by_tile = ops.mul(ops.unary(gate, "tanh", saves="output"), found, "gated places of tiles", axes=x.axes)
        tape.often.clear()
        x = ops.add(x, by_tile, "rows and places of tiles")
        del gated, found, by_tile
        return x


class Tiled(Record):
    """The tower: layers over all tiles of a picture, then gated ones, and what some of the first ones have made.

    Args:
        patches: the convolution.
        path: of the tower.
        tiles: of a picture.
        image: side of a tile. [pixel]
        ids: shapes of a picture, and one for none.
        layer, count: of the first list.
        gated, more: of the second.
        norms: before the first list, and between both.
        taken: outputs of the first list that are handed on.
    """

    patches: Patches
    path: str
    tiles: int
    image: int
    ids: int
    layer: Layer
    count: int
    gated: Layer
    more: int
    norms: tuple[Norm, Norm]
    taken: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Patches of a tile, and one more."""
        return (self.image // self.patches.side) ** 2 + 1

    @property
    def width(self) -> int:
        """Of what is handed on."""
        return self.patches.D * (1 + len(self.taken))

    @property
    def places(self) -> Places:
        """Of patches."""
        return Places(f"{self.path}.gated_positional_embedding", self.ids, self.tiles, self.rows, self.patches.D)

    def tile_places(self, when: str) -> TilePlaces:
        """Of tiles, "pre" or "post" the first list."""
        return TilePlaces(f"{self.path}.{when}_tile_positional_embedding", self.ids, self.tiles, self.patches.D)

    def weights(self) -> Iterator[Tensor]:
        """All tensors of the tower."""
        yield from self.patches.weights()
        yield Tensor(f"{self.path}.class_embedding", (("D", self.patches.D),), "vision")
        for part in (self.places, self.tile_places("pre"), self.tile_places("post"), *self.norms):
            yield from part.weights()
        for layer in (*self._first(), *self._second()):
            yield from layer.weights()

    def _first(self) -> Iterator[Layer]:
        return numbered(f"{self.path}.transformer.layers", self.layer, self.count)

    def _second(self) -> Iterator[Layer]:
        return numbered(f"{self.path}.global_transformer.layers", self.gated, self.more)

    def forward(self, f: Forward, pixels: Value, ids: Value, there: Value) -> Value:
        """Pixels of all tiles to what is seen in them: axes ``B T X``, a tile's rows behind one another's."""
        tape, D, B = f.tape, ("D", self.patches.D), ids.axes[0]
        all_tiles, tiles, P = ("B", B[1] * self.tiles), ("X", self.tiles), self.rows
        patched = self.patches.forward(f, pixels, P - 1)
        x = self.tile_places("pre").added(f, patched.view((B, tiles, ("T", P - 1), D)), ids)
        first = tape.parameter(f"{self.path}.class_embedding", (D,))
        one = expanded(first, (all_tiles, ("T", 1), D))
        x = ops.cat((one, x.view((all_tiles, ("T", P - 1), D))), (all_tiles, ("T", P), D), "rows")
        del one
        x = self.places.added(f, x.view((B, tiles, ("T", P), D)), ids)
        x = self.norms[0].forward(f, x)
        whole = ("T", P + -P % PADDED)
        padded: Axes = (B, tiles, whole, D)
        x = _padded(x, padded)
        f.masks[None] = _mask(tape, there, B, self.tiles, whole)
        rows: Axes = (B, ("T", self.tiles * whole[1]), D)
        x = x.view(rows)
        made: list[Value] = []
        for layer in self._first():
            x = layer.forward(f, x)
            made.append(x)
        x = self.norms[1].forward(f, x)
        x = self.tile_places("post").added(f, x.view(padded), ids).view(rows)
        more: list[Value] = []
        for layer in self._second():
            x = layer.forward(f, x)
            more.append(x)
        x = ops.narrow(x.view(padded), (B, tiles, ("T", P), D))
        taken = tuple(made[i] for i in self.taken)
        k = ("X", len(taken))
        stacked = _stacked(taken, (*rows, k))
        stacked = ops.narrow(stacked.view((*padded, k)), (B, tiles, ("T", P), D, k))
        del taken
        x = ops.cat((x, stacked), (B, tiles, ("T", P), ("X", self.width)), "what is seen")
        del patched, made, more, stacked
        f.masks.clear()
        return x


def _stacked(values: tuple[Value, ...], axes: Axes) -> Value:
    """``torch.stack(values, -1)``: the gradients are views of one, with gaps, into which nothing is added in place."""
    tape, before, dtype = values[0].tape, values[0].axes, values[0].dtype
    out = tape.new("outputs side by side", axes, dtype)

    def back(g: Value) -> Grads:
        g.storage.viewed = True
        return tuple(g.view(before) for _ in range(axes[-1][1]))

    tape.record((out,), values, back, ())
    return out


def _padded(x: Value, axes: Axes) -> Value:
    """``F.pad`` behind the rows, whose gradient is a part of what comes."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("padded rows", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient without padding", before, dtype),), ())
    return out


def _mask(tape: Tape, there: Value, B: Axis, tiles: int, whole: Axis) -> Value:
    """What hides tiles that are none, and padding: a product of matrices, and its multiple."""
    form, rows = tape.weights, ("T", tiles * whole[1])
    narrow = tape.new("tiles that are there", there.axes, form)
    each = tape.new("rows that are there", (B, rows), form)
    del narrow
    hidden = tape.new("rows that are hidden", (B, rows), form)
    del each
    # A product of matrices, which autocast runs in its format.
    form = tape.autocast or form
    pairs = tape.product("pairs that are hidden", (B, rows, ("S", rows[1])), form)
    out = tape.new("mask of rows", (B, ("X", 1), rows, ("S", rows[1])), form)
    del pairs, hidden
    return out


class BesideTheText(Eye):
    """Layers of the language model see the tower's output through a matrix.

    Args:
        tower: over the tiles.
        projector: the matrix.
    """

    early: ClassVar[bool] = True

    tower: Tiled
    projector: Linear

    def tokens(self, pictures: Pictures) -> int:
        """One of each picture tells where it stands."""
        return pictures.count

    def given(self, tape: Tape, ids: Value, pictures: Pictures) -> list[Value]:
        """Pixels of all tiles, shapes, which tiles are there, and which of them each token sees."""
        (_, B), T = ids.axes
        t, n = self.tower, ("X", pictures.count)
        side = ("X", t.image)
        pixels = tape.new(
            "pixels", (("B", B * pictures.count * t.tiles), ("C", t.patches.channels), side, side), "fp32"
        )
        tiles = ("X", t.tiles)
        return [
            pixels, tape.new("shapes", (("B", B), n), "int64"), tape.new("tiles", (("B", B), n, tiles), "int64"),
            tape.new("what tokens see", (("B", B), T, n, tiles), "int64"),
        ]  # fmt: skip

    def look(self, f: Forward, ids: Value, given: list[Value], pictures: Pictures) -> None:
        """Put what is seen, and what hides some of it, where the layers find it."""
        tape, tower = f.tape, self.tower
        pixels, shapes, tiles, _ = given
        B, N = ids.axes[0], ("B", ids.axes[0][1] * pictures.count)
        seen = tower.forward(f, pixels, shapes.view((N, ("X", 1))), tiles.view((N, ("X", tower.tiles))))
        # The tower's output has its name until the layers are through.
        f.frame.append(seen)
        rows = ("S", pictures.count * tower.tiles * tower.rows)
        made = self.projector.forward(f, seen)
        f.encoder = made.view((B, rows, made.axes[-1]))
        pairs: Axes = (B, ("X", 1), ids.axes[1], rows)
        repeated = tape.new("what tokens see, row by row", pairs, "int64")
        numbers = tape.new("what is hidden", pairs, "fp32")
        hidden = ops.cast(numbers, tape.weights)
        del numbers
        mask = _hidden_where(tape, hidden, pairs)
        del repeated
        some = tape.new("rows that see something", pairs, "bool")
        narrow = tape.new("rows that see something", pairs[:3], "bool")
        del some
        f.hidden = tape.new("rows that see something", (*pairs[:3], ("X", 1)), tape.weights)
        del narrow, hidden
        f.masks[BESIDE] = mask


def _hidden_where(tape: Tape, hidden: Value, pairs: Axes) -> Value:
    """``masked_fill`` by the same as a mask."""
    which = tape.new("what is hidden", pairs, "bool")
    out = tape.new("mask of what is beside", pairs, hidden.dtype)
    del which
    return out
