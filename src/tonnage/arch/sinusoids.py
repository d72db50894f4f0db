"""Positions of fixed sines and cosines, counted from the tokens that are no padding (M2M-100, NLLB-MoE).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/m2m_100/modeling_m2m_100.py
(M2M100SinusoidalPositionalEmbedding)

Leaves out: the table that is made anew where a sequence is longer than it; training refuses such lengths.
"""

from __future__ import annotations

from tonnage.arch.ends import Table
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Value
from tonnage.errors import UnsupportedError
from tonnage.tensors import Axes

SPARE = 2
"""Rows beside those of the positions: they begin behind the number of the padding token, which is 1."""


class Sinusoids(Table):
    """The table, a buffer whose whole name ``name`` is."""

    fixed: bool = True

    def looked_up(self, f: Forward, ids: Axes) -> Value:
        """Rows of the table for tokens with axes ``B T``, without a gradient."""
        tokens = f.cached + ids[1][1]
        if f.tape.grad and tokens > self.rows - SPARE:
            raise UnsupportedError(
                f"{tokens:,} tokens are more than the {self.rows - SPARE:,} positions of {self.name}: a table that is "
                "made anew for them is not modelled in training",
                key="seq",
                value=tokens,
            )
        indices = _counted(f, ids)
        found = f.tape.new("fixed positions", (*ids, ("D", self.width)), f.tape.buffers)
        del indices
        # The model's code names what was found to its end.
        f.frame.append(found)
        return found


def _counted(f: Forward, ids: Axes) -> Value:
    """``create_position_ids_from_input_ids``: running sums of a mask, by that mask."""
    tape = f.tape
    other = tape.new("tokens that are no padding", ids, "bool")
    mask = tape.new("mask", ids, "int32")
    del other
    sums = tape.new("running sums of the mask", ids, "int64")
    counted = tape.new("running sums, narrowed", ids, "int32")
    del sums
    moved = tape.new("running sums, counted on", ids, "int32")
    del counted
    within = tape.new("positions within the text", ids, "int32")
    del moved
    wide = tape.new("positions, widened", ids, "int64")
    found = tape.new("positions", ids, "int64")
    del wide, within, mask
    return found
