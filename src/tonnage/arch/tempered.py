"""Queries multiplied by a number that grows with their position (arXiv:2501.19399).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/ (ministral3, llama4).
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.eager import named
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Value


def tempered(f: Forward, q: Value, *, wide: bool) -> Value:
    """In the format of the queries, or ``wide``: in fp32, by what keeps its name until the block returns."""
    tape, rows = f.tape, (named(q, "T"),)
    if not wide:
        numbers = tape.new("numbers by position", rows, "fp32")
        return ops.mul(q, ops.cast(numbers, q.dtype), "scaled queries")
    f.local += [tape.new("positions", rows, "int64"), tape.new("numbers by position", rows, "fp32")]
    return ops.cast(ops.mul(q, f.local[-1], "scaled queries"), q.dtype)
