"""Queries, keys and values taken out of one packed projection, each as its modelled code does it."""

from __future__ import annotations

from typing import Final, Literal

from tonnage.arch import ops
from tonnage.arch.tape import Value
from tonnage.tensors import Axes

Packing = Literal["split", "blocks", "sliced", "chunk", "select", "multi-query", "groups"]
"""How the rows of a packed projection are laid out and taken apart.

``split``: all queries, all keys, all values, by one ``split`` or ``chunk`` (GPT-2, MPT). ``sliced``: the same by three
slices (Phi-3). ``chunk``: query, key and value of a head together, split with the heads first (GPT-NeoX). ``select``:
the same, taken by index (BLOOM, early Falcon). ``multi-query``: queries, then one key and one value (Falcon-7B).
``blocks``: the heads lie in four groups, so that each part is copied (CodeGen).
``groups``: each key/value head behind its queries, and repeated for them at once (Falcon-40B).
"""

FLAT: Final = ("split", "sliced", "multi-query")
"""Packings that lay all queries before all keys."""


def unpacked(packed: Value, order: Packing, N: int, K: int, H: int) -> tuple[Value, Value, Value]:
    """Queries, keys and values, axes ``B T N H`` and ``B T K H``."""
    rows = packed.axes[:2]
    q: Axes = (*rows, ("N", N), ("H", H))
    k: Axes = (*rows, ("K", K), ("H", H))
    if order == "split":
        return _three(ops.split(packed, (q, k, k)))
    if order == "blocks":
        return _three(tuple(ops.copy(part, label="heads of all groups") for part in ops.split(packed, (q, k, k))))
    if order == "chunk":
        return _three(ops.split(_heads_first(packed), (q, k, k)))
    if order in ("sliced", "select"):
        return ops.narrow(packed, q), ops.narrow(packed, k), ops.narrow(packed, k)
    if order == "multi-query":
        return ops.narrow(packed, q), _picked(packed, k), _picked(packed, k)
    query, key, value = ops.narrow(packed, q), _picked(packed, k), _picked(packed, k)
    whole: Axes = (*rows, ("N", N), ("H", H))
    queries = ops.copy(query, whole, "queries of all groups") if K > 1 else query
    if N > K:
        return queries, ops.copy(key, whole, "repeated keys"), ops.copy(value, whole, "repeated values")
    return queries, key.view(whole), value.view(whole)


def unbound(packed: Value, part: Axes) -> tuple[Value, Value, Value]:
    """Three parts of these axes, by one ``permute`` and ``unbind``."""
    return _three(ops.split(_heads_first(packed), (part, part, part)))


def _three(parts: tuple[Value, ...]) -> tuple[Value, Value, Value]:
    q, k, v = parts
    return q, k, v


def _heads_first(x: Value) -> Value:
    """The view before a split with the heads first: its gradient comes back heads first and is copied."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = Value(x.storage, axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("tokens first again", axes, dtype),), ())
    return out


def _picked(x: Value, axes: Axes) -> Value:
    """``x[..., [i], :]``: a copy, whose gradient is a whole tensor of zeros with it put in; the index is kept."""
    tape, whole, dtype = x.tape, x.axes, x.dtype
    index = tape.new("index", (("X", 1),), "int64")
    out = tape.new("picked", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of picked", whole, dtype),), (index,))
    return out
