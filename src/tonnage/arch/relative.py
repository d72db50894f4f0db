"""A bias of scores that every layer shares and that is learned: one number a head for each distance (arXiv:1910.10683).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mpnet/modeling_mpnet.py
(MPNetEncoder.compute_position_bias, relative_position_bucket)
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Value
from tonnage.record import Record
from tonnage.tensors import Axes


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
