"""Eager attention as single families write it out; ``arch/eager.py`` has the forms that several share.

Reference: https://github.com/huggingface/transformers/tree/v5.23.0/src/transformers/models/ (the families' modeling
files).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tonnage.arch import ops
from tonnage.arch.eager import Attention, applied, batched, by_heads, masked, named, product, repeated, tokens_first
from tonnage.arch.exponentials import log_sum_exp
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Grads, Value


def _sinks_apart(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    """The output is multiplied by what the sink leaves, worked out from the scores' log-sum-exp (Granite SWA)."""
    keys = repeated(k, a.N)
    values = repeated(v, a.N)
    weights = masked(f, a, ops.scaled(product(q, keys), "scaled scores"))
    lse = log_sum_exp(weights)
    scale = ops.unary(ops.cast(_below_sinks(f, a, lse), "fp32"), "sigmoid", saves="output")
    weights = ops.cast(ops.softmax(weights, dtype="fp32", label="attention weights"), q.dtype)
    weights = ops.dropout(weights, a.dropout, f.training)
    out = applied(weights, values)
    out = ops.mul(out, ops.cast(scale, out.dtype).view((*scale.axes, ("X", 1))), "output without sinks")
    out = tokens_first(out)
    f.weights.append(weights)
    return out


def _below_sinks(f: Forward, a: Attention, lse: Value) -> Value:
    tape, axes = f.tape, lse.axes
    sink = tape.parameter(f"{a.name}.sinks", (("N", a.N),))
    dtype = ops.promoted(lse.dtype, sink.dtype)
    out = tape.new("log-sum-exp below sinks", axes, dtype)
    sinks, own, before, trained = sink.axes, sink.dtype, lse.dtype, sink.trained

    def back(g: Value) -> Grads:
        gs = ops.fitted(tape.new("negated gradient", axes, dtype), sinks, own) if trained else None
        return ops.fitted(g, axes, before), gs

    tape.record((out,), (lse, sink), back, ())
    return out


def _baddbmm(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    """Scores are added to zeros in one product (GPT-NeoX Japanese). Every name stands until the block returns."""
    tape = f.tape
    zeros = tape.new("zeros", (*by_heads(q)[:3], ("S", named(k, "TS")[1])), q.dtype)
    scores = _scaled_product(batched(ops.lowered(q)), batched(ops.lowered(k)), ops.lowered(zeros))
    scores = masked(f, a, scores)
    weights = ops.softmax(scores, label="attention weights")
    weights = ops.dropout(weights, a.dropout, f.training)
    weights = ops.cast(weights, v.dtype)
    out = applied(weights, v)
    f.weights.append(weights)
    del zeros, scores
    return tokens_first(out)


def _scaled_product(q: Value, k: Value, zeros: Value) -> Value:
    """``torch.baddbmm(zeros, q, k, alpha=...)``: either gradient is a product and its multiple."""
    tape, dtype, q_axes, k_axes = q.tape, q.dtype, q.axes, k.axes
    out = tape.new("scores", zeros.axes, dtype)

    def back(g: Value) -> Grads:
        plain = tape.new("product before alpha", q_axes, dtype)
        gq = tape.new("gradient of queries", q_axes, dtype)
        plain = tape.new("product before alpha", k_axes, dtype)
        gk = tape.new("gradient of keys", k_axes, dtype)
        del plain
        return gq, gk

    tape.record((out,), (q, k), back, (q, k))
    return out


def _highest(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    """Masked scores are held above the smallest number (XGLM)."""
    weights = product(q, k)
    if f.masks.get(a.window) is not None:
        weights = _floored(masked(f, a, weights))
    if weights.dtype == "fp16":
        weights = ops.cast(ops.softmax(weights, dtype="fp32", label="attention weights"), "fp16")
    else:
        weights = ops.softmax(weights, label="attention weights")
    f.weights.append(weights)
    dropped = ops.dropout(weights, a.dropout, f.training)
    out = tokens_first(applied(dropped, v))
    f.local += [q, k, v, dropped]
    return out


def _floored(x: Value) -> Value:
    """``torch.max(x, smallest)``: keeps both; ties share the gradient."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    floor = tape.new("smallest number", (), "fp32")
    out = tape.new("scores above the smallest", axes, dtype)

    def back(g: Value) -> Grads:
        equal = tape.new("where equal", axes, "bool")
        half = tape.new("half of the gradient", axes, dtype)
        grad = tape.new("gradient of scores", axes, dtype)
        lower = tape.new("where lower", axes, "bool")
        del equal, half, lower
        return (grad,)

    tape.record((out,), (x,), back, (x, floor))
    return out


def _triangle(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    """Scores times a triangle of ones, and its complement times a large number (GPT). There is no other mask."""
    weights = ops.scaled(product(q, k), "scaled scores")
    tape = f.tape
    row = (named(weights, "T"), weights.axes[-1])
    # The triangle is a buffer, so that the product keeps nothing of its own.
    rest = ops.scaled(tape.new("rest of the triangle", row, f.tape.weights), "large numbers")
    weights = ops.add(ops.scaled(weights, "scores in the triangle"), rest, "masked scores")
    del rest
    weights = ops.softmax(weights, label="attention weights")
    weights = ops.dropout(weights, a.dropout, f.training)
    out = applied(weights, v)
    return tokens_first(out)


def _relative(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    """A learned bias is added before the mask (T5)."""
    weights = ops.scaled(product(q, k), "scaled scores")
    if f.position is not None:
        T, S, N = f.position.axes
        weights = ops.add(weights, f.position.view((("X", 1), N, T, S)), "scores with bias")
    mask = None if getattr(a, "cross", False) else f.masks.get(a.window)
    if mask is not None:
        weights = ops.add(weights, mask, "masked scores")
    weights = ops.softmax(weights, label="attention weights")
    weights = ops.dropout(weights, a.dropout, f.training)
    out = applied(weights, v)
    f.weights.append(weights)
    return tokens_first(out)


STYLES: Final[dict[str, Callable[[Forward, Attention, Value, Value, Value], Value]]] = {
    "sinks-apart": _sinks_apart,
    "baddbmm": _baddbmm,
    "floored": _highest,
    "triangle": _triangle,
    "relative": _relative,
}
