"""Positions as a grid: every position has the rows of all axes side by side (Reformer, arXiv:2001.04451).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/reformer/modeling_reformer.py
(ReformerEmbeddings, AxialPositionEmbeddings)
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from tonnage.arch import ops
from tonnage.arch.ends import Stem
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Grads, Parameter, Value
from tonnage.tensors import Axes, Axis, Tensor


class Gridded(Stem):
    """Words and positions, each with a dropout of its own, added up; the model's code names the sum to its end.

    Args:
        path: of the module of positions.
        rows_of: rows of one plain table; None where positions are a grid.
        shape: of the grid.
        widths: of the rows of each axis.
    """

    path: str = ""
    rows_of: int | None = None
    shape: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()

    @property
    def trains_on(self) -> int | None:
        """Tokens that a sequence must have in training; None for any number."""
        return None if self.rows_of is not None else math.prod(self.shape)

    def weights(self) -> Iterator[Tensor]:
        """The words' table and those of positions."""
        yield from super().weights()
        yield from (Tensor(name, axes, "position") for name, axes in self._tables())

    def _tables(self) -> Iterator[tuple[str, Axes]]:
        if self.rows_of is not None:
            yield f"{self.path}.embedding.weight", (("P", self.rows_of), ("D", self.D))
            return
        for i, width in enumerate(self.widths):
            grid: tuple[Axis, ...] = tuple(("P", n if i == axis else 1) for axis, n in enumerate(self.shape))
            yield f"{self.path}.weights.{i}", (*grid, ("X", width))

    def forward(self, f: Forward, ids: Value) -> Value:
        """Token ids (axes ``B T``) to what goes into the layers."""
        x = self._added(f, ids)
        f.frame.append(x)
        return x

    def _added(self, f: Forward, ids: Value) -> Value:
        tape, width = f.tape, (("D", self.D),)
        positions = tape.new("positions", ids.axes[1:], "int64")
        given = ops.embedding(ids, tape.parameter(f"{self.name}.weight", (("V", self.V), *width)), width)
        x = ops.dropout(given, self.dropout, f.training)
        found = self._looked_up(f, ids.axes, positions)
        out = ops.add(x, found, "embedding and positions")
        del given
        return out

    def _looked_up(self, f: Forward, rows: Axes, positions: Value) -> Value:
        tables = [f.tape.parameter(name, axes) for name, axes in self._tables()]
        D: Axes = (("D", self.D),)
        if self.rows_of is not None:
            # One row of numbers is seen as one for every sequence.
            found = ops.embedding(Value(positions.storage, rows, "int64"), tables[0], D)
            return ops.dropout(found, self.dropout, f.training)
        grid: Axes = (rows[0], *(("P", n) for n in self.shape))
        seen = [_expanded(table, (*grid, table.axes[-1])) for table in tables]
        if not (f.training and self.dropout):
            return ops.cat(tuple(ops.copy(x, (*rows, x.axes[-1]), "positions of an axis") for x in seen), (*rows, *D))
        return self._dropped(ops.cat(tuple(seen), (*grid, *D)), rows)

    def _dropped(self, x: Value, rows: Axes) -> Value:
        """``dropout2d`` over the first axis of the grid: whole rows of it, by a number for each."""
        tape, axes, dtype = x.tape, x.axes, x.dtype
        noise = tape.new("noise", (*axes[:1], axes[2]), dtype)
        out = tape.new("positions, dropped", axes, dtype)
        tape.record((out,), (x,), lambda g: (tape.new("gradient of dropped positions", axes, dtype),), (noise,))
        return out.view((*rows, axes[-1]))


def _expanded(table: Parameter, axes: Axes) -> Value:
    """``table.expand(...)``: seen as one for every sequence and every other axis, whose gradients are summed."""
    tape, before, dtype = table.tape, table.axes, table.dtype
    uses = Value(tape.new("uses", (("X", 0),), dtype).storage, axes, dtype)

    def back(g: Value) -> Grads:
        return (tape.new("gradient of positions", before, dtype),)

    tape.record((uses,), (table,), back, ())
    return uses
