"""Rotary position embedding as GPT-J does it: neighbours in pairs, by a table that every layer has for itself.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gptj/modeling_gptj.py
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.eager import named
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Value
from tonnage.tensors import halved


def rotate_pairs(f: Forward, q: Value, k: Value, rows: int | None, width: int) -> tuple[Value, Value]:
    """Turn the first ``width`` elements of every head of ``q`` and ``k`` (axes ``B T N H``).

    ``rows`` are those of a table that is copied and cast; where it is None, the table is read as it is (CodeGen).
    The names of what was looked up and of the parts stand until the block returns.
    """
    tape, tokens, dtype = f.tape, named(q, "T"), k.dtype
    row = (tokens, ("X", width))
    if rows is None:
        dtype = "fp32"
    else:
        f.local.append(tape.new("table of angles", (("P", rows), ("X", width)), "fp32"))
        f.local.append(tape.new("positions, repeated", row, "int64"))
    f.local.append(ops.cast(tape.new("angles", row, "fp32"), dtype))
    k_turn, k_rest = _parts(k, width)
    q_turn, q_rest = _parts(q, width)
    k_turned = _turned(k_turn, dtype)
    q_turned = _turned(q_turn, dtype)
    f.local += [k_turned, k_rest, q_turned, q_rest]
    k_joined = ops.cat((k_turned, k_rest), k.axes)
    return ops.cat((q_turned, q_rest), q.axes), k_joined


def _parts(x: Value, width: int) -> tuple[Value, Value]:
    """What is turned, and the rest, which is cut off even where it is empty; a slice of everything is a view."""
    whole = x.axes[-1][1]
    first = x if whole == width else ops.narrow(x, (*x.axes[:-1], ("H", width)))
    return first, ops.narrow(x, (*x.axes[:-1], ("H", whole - width)))


def _turned(x: Value, dtype: str) -> Value:
    """``x * cos + rotate_every_two(x) * sin``, sine and cosine repeated for neighbours."""
    row = (named(x, "T"), x.axes[-1])
    sine = x.tape.new("sine, repeated", row, dtype)
    cosine = x.tape.new("cosine, repeated", row, dtype)
    return ops.add(ops.mul(x, cosine, "turned by cosine"), ops.mul(_rotate_every_two(x), sine, "turned by sine"))


def _rotate_every_two(x: Value) -> Value:
    half = halved(x.axes, "H")
    first = ops.narrow(x, half)
    second = ops.narrow(x, half)
    return ops.cat((ops.scaled(second, "negated half"), first), x.axes, "pairs turned")
