"""Single rows of the embedding that are trained (trainable tokens).

Every pass writes them into a copy of the whole table; a tied head makes a copy of its own, which the graph keeps.

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/trainable_tokens/layer.py
(TrainableTokensLayer), utils/other.py (TrainableTokensWrapper)
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.tape import Parameter, Tape, Value
from tonnage.arch.tuning import matrices
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor


class Rows(Record):
    """Rows of a table.

    Args:
        table: path of the embedding.
        rows: how many.
        width: of the embedding.
        dtype: their format.
        tied: the head has them as well.
    """

    table: str
    rows: int
    width: int
    dtype: str
    tied: bool = False

    @property
    def name(self) -> str:
        """Of the trained tensor."""
        return f"{self.table}.trainable_tokens_delta"

    def _axes(self) -> Axes:
        return (("X", self.rows), ("D", self.width))

    def weights(self) -> tuple[Tensor, ...]:
        """The trained rows."""
        return (Tensor(self.name, self._axes(), "embedding", dtype=self.dtype),)

    def kept(self) -> tuple[Tensor, ...]:
        """The rows as they were."""
        return (Tensor(f"{self.table}.trainable_tokens_original", self._axes(), "buffer", dtype=self.dtype),)

    def embedded(self, ids: Value, table: Parameter, width: Axes) -> Value:
        """Rows of the copied table."""
        return ops.embedding(ids, self._written(ids.tape, table), width)

    def multiplied(self, x: Value, table: Parameter, words: Axes) -> Value:
        """The product with another copy."""
        return matrices.against(x, self._written(x.tape, table), 1, words, "logits")

    def _written(self, tape: Tape, table: Parameter) -> Value:
        """``index_copy``: a copy of the table, which takes the rows' gradients out of its own."""
        indices = tape.new("numbers of rows", self._axes()[:1], "int64")
        trained = Parameter(tape, self.name, self._axes(), self.dtype, tape.grad)
        rows = ops.weight_in(trained, table.dtype)
        axes, dtype = self._axes(), table.dtype
        out = tape.new("table with trained rows", table.axes, dtype)
        saved = (indices, rows) if isinstance(rows, Value) else (indices,)
        tape.record((out,), (rows,), lambda _: (tape.new("gradient of rows", axes, dtype),), saved)
        return out
