"""Embeddings of every layer: a second table with a row for each, and what a layer makes of its own (Gemma 4).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gemma4/modeling_gemma4.py
(Gemma4TextModel.get_per_layer_inputs, project_per_layer_inputs; Gemma4TextDecoderLayer).
"""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.parts import Parts
from tonnage.arch.tape import Value
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor


class LayerEmbeddings(Record):
    """The second table, and the projection of the first one's rows to the same.

    Args:
        path: of the model.
        V: rows of the table.
        D: residual width.
        R: of a layer's row.
        layers: how many.
        scale: the buffer that the table's module multiplies by.
        bounded: ids beyond the table are taken for the first, and what is projected is scaled in place (Gemma 3n).
    """

    path: str
    V: int
    D: int
    R: int
    layers: int
    scale: Tensor
    bounded: bool = False

    def _rows(self) -> Axes:
        return ("L", self.layers), ("R", self.R)

    def _projection(self) -> Linear:
        return Linear(f"{self.path}.per_layer_model_projection", (("D", self.D),), self._rows(), "embedding")

    def _norm(self) -> Norm:
        return Norm(f"{self.path}.per_layer_projection_norm", (("R", self.R),), "rms-power")

    def weights(self) -> Iterator[Tensor]:
        """Table, projection, norm and the number."""
        yield Tensor(f"{self.path}.embed_tokens_per_layer.weight", (("V", self.V), *self._rows()), "embedding", (1, 2))
        yield from self._projection().weights()
        yield from self._norm().weights()
        yield self.scale

    def forward(self, f: Forward, ids: Value, x: Value, *, named: bool, rows: Value | None = None) -> Value:
        """Rows of all layers, axes ``B T L R``, of which the model's code keeps the name.

        ``named``: code around the model looks the rows up, and names them and its embeddings without placeholders.
        ``rows`` are there where code around the model has looked them up before.
        """
        tape = f.tape
        if named:
            f.frame.append(tape.new("embeddings without placeholders", x.axes, x.dtype))
        rows = self.looked_up(f, ids) if rows is None else rows
        if named:
            f.frame.append(rows)
        made = ops.scaled(self._projection().forward(f, x), "scaled projection", in_place=self.bounded)
        made = self._norm().forward(f, made)
        return ops.scaled(ops.add(made, rows, "projection and rows"), "embeddings of every layer")

    def looked_up(self, f: Forward, ids: Value) -> Value:
        """The second table's rows of all layers."""
        tape, inside = f.tape, None
        table = tape.parameter(f"{self.path}.embed_tokens_per_layer.weight", (("V", self.V), *self._rows()))
        if self.bounded:
            either = [tape.new("ids on one side", ids.axes, "bool") for _ in range(2)]
            inside = tape.new("ids of the table", ids.axes, "bool")
            del either
            first = tape.new("id of the first", (), "int64")
            ids = tape.new("ids within the table", ids.axes, "int64")
            del first
        rows = ops.scaled(ops.embedding(ids, table, self._rows()), "scaled embedding")
        del inside
        return rows


def row(f: Forward) -> Value:
    """The row of the layer at hand, which the model's code takes out before it calls that."""
    assert f.inputs is not None
    B, T, _, R = f.inputs.axes
    return ops.narrow(f.inputs, (B, T, R))


class LayerInput(Parts):
    """What a layer adds of its own row: the gated stream times the row, projected back and normed.

    Args:
        gate: to the row's width.
        back: to the residual width.
        norm: of what is added.
        act: of the gate.
    """

    gate: Linear
    back: Linear
    norm: Norm
    act: str

    def forward(self, f: Forward, x: Value) -> Value:
        """By the row of the layer at hand."""
        assert f.row is not None
        own = f.row
        x = self.gate.forward(f, x)
        x = activate(x, self.act)
        x = ops.mul(x, own, "gated row")
        x = self.back.forward(f, x)
        return self.norm.forward(f, x)
