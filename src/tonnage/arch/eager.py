"""Attention written out in Python: scores as matrices, in the arithmetic of each modelled code.

Head-major tensors (axes ``B N T H``) merge batch and heads without a copy; token-major ones (``B T N H``) do not, so
that a batched matrix product copies them first.

Reference: ``eager_attention_forward`` or ``_attn`` in
https://github.com/huggingface/transformers/tree/v5.23.0/src/transformers/models/
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, Protocol

from tonnage.arch import ops
from tonnage.arch.forward import BESIDE, Forward
from tonnage.arch.tape import Grads, Value
from tonnage.tensors import Axes, Axis

EagerStyle = Literal[
    "fp32-softmax", "narrow-softmax", "native", "uncast", "fp32-scores", "fp32-where", "bloom", "mpt", "falcon",
    "falcon-alibi", "sinks", "sinks-apart", "baddbmm", "floored", "triangle", "biased", "relative",
]  # fmt: skip
"""How scores become weights.

``fp32-softmax`` is transformers' usual form: scaled, masked, softmax in fp32, cast back; ``narrow-softmax`` stays in
the format of the scores (Llama 4). ``native`` takes the softmax in the format of the scores and casts it to that of the
values (GPT-2); ``uncast`` leaves it (BERT, T5).
``fp32-scores`` casts queries and keys to fp32 (GPT-J), ``fp32-where`` does so and picks by a boolean buffer (GPT-Neo).
``sinks`` joins a learned logit a head to the scores and drops what it took (gpt-oss).
``bloom``, ``mpt``, ``falcon`` and ``falcon-alibi`` are those families' own; ``arch/scores.py`` has the others.
"""


class Attention(Protocol):
    """What eager attention needs to know of the block that calls it."""

    @property
    def name(self) -> str:
        """Path of the module below its layer."""
        ...

    @property
    def N(self) -> int:  # noqa: N802
        """Query heads."""
        ...

    @property
    def window(self) -> int | None:
        """Tokens that a query sees; None for all."""
        ...

    @property
    def causal(self) -> bool:
        """Whether later tokens are hidden."""
        ...

    @property
    def softcap(self) -> bool:
        """Whether scores go through a tanh."""
        ...

    @property
    def dropout(self) -> float:
        """Of the attention weights."""
        ...

    @property
    def eager(self) -> EagerStyle:
        """How scores become weights."""
        ...


def named(x: Value, letters: str) -> Axis:
    """The axis of ``x`` that goes by one of these letters."""
    return next(a for a in x.axes if a[0] in letters)


def head_major(x: Value) -> bool:
    """Whether batch and heads of ``x`` are one stretch of memory, or as good as that."""
    return x.axes[1][0] in "NK" or x.axes[0][1] == 1 or named(x, "TS")[1] == 1 or named(x, "NK")[1] == 1


def by_heads(x: Value) -> Axes:
    """The axes of ``x`` with heads before tokens."""
    return (x.axes[0], named(x, "NK"), named(x, "TS"), x.axes[-1])


def batched(x: Value) -> Value:
    """``x`` as a batched matrix product takes it: copied where batch and heads cannot be merged.

    The gradient comes back head-major, and the view that split the heads copies it.
    """
    if head_major(x):
        return ops.copy(x, label="repeated heads") if x.expanded and x.axes[0][1] > 1 else x
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("heads first", by_heads(x), dtype)
    tape.record((out,), (x,), lambda g: (tape.new("tokens first again", before, dtype),), ())
    return out


def by_heads_first(x: Value) -> Value:
    """``transpose(1, 2).contiguous()``: a copy but of a single token or head, whose gradient lies by heads."""
    axes = by_heads(x)
    if 1 in (axes[1][1], axes[2][1]):
        return x.view(axes)
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("heads first", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("tokens first again", before, dtype),), ())
    return out


def repeated(x: Value, N: int) -> Value:
    """``repeat_kv``: a copy for every query head, or nothing when each has its own.

    A single head is only seen as many, until a batched product of several sequences wants it whole.
    """
    heads, axes = named(x, "NK")[1], (x.axes[0], ("N", N), named(x, "TS"), x.axes[-1])
    if heads == N:
        return x
    return ops.expand(x, axes) if heads == 1 else ops.copy(x, axes, "repeated heads")


def tokens_first(x: Value) -> Value:
    """``transpose(1, 2).contiguous()`` of a head-major output: a copy, but of a single token or head."""
    if 1 in (x.axes[1][1], x.axes[2][1]):
        return x.view((x.axes[0], x.axes[2], x.axes[1], x.axes[3]))
    return ops.copy(x, (x.axes[0], x.axes[2], x.axes[1], x.axes[3]), "attention output, transposed")


def eager(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    """Attention of ``q`` over ``k`` and ``v``; returns the heads' outputs, axes ``B T N H``."""
    style = _STYLES.get(a.eager)
    if style is None:
        from tonnage.arch.scores import STYLES

        style = STYLES[a.eager]
    return style(f, a, q, k, v)


def masked(f: Forward, a: Attention, scores: Value) -> Value:
    """Scores with the mask, where there is one."""
    mask = _mask(f, a)
    return scores if mask is None else ops.add(scores, mask, "masked scores")


def _mask(f: Forward, a: Attention) -> Value | None:
    if f.seen is not None:
        return f.seen
    return f.masks.get(BESIDE if getattr(a, "cross", False) else a.window)


def product(q: Value, k: Value) -> Value:
    """``matmul(q, k.transpose(-1, -2))``."""
    tokens = ("S", named(k, "TS")[1])
    left, right = ops.lowered(q), ops.lowered(k)
    del q, k
    return ops.matmul(
        batched(left), batched(right), (left.axes[0], named(left, "N"), named(left, "T"), tokens), "scores"
    )


def applied(weights: Value, v: Value) -> Value:
    """``matmul(weights, v)``, head-major."""
    v = ops.lowered(v)
    return ops.matmul(weights, batched(v), (*weights.axes[:3], v.axes[-1]), "attention output")


def _default(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    keys = repeated(k, a.N)
    values = repeated(v, a.N)
    weights = ops.scaled(product(q, keys), "scaled scores")
    if a.softcap:
        weights = ops.scaled(weights, "scores before tanh")
        weights = ops.unary(weights, "tanh", saves="output")
        weights = ops.scaled(weights, "capped scores")
    mask = _mask(f, a)
    if mask is not None:
        weights = ops.add(weights, mask, "masked scores")
    if a.eager == "narrow-softmax":
        weights = ops.softmax(weights, label="attention weights")
    else:
        weights = ops.cast(ops.softmax(weights, dtype="fp32", label="attention weights"), q.dtype)
    weights = ops.dropout(weights, a.dropout, f.training)
    out = applied(weights, values)
    out = tokens_first(out)
    f.weights.append(weights)
    return out


def _native(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    weights = ops.scaled(product(q, k), "scaled scores")
    mask = _mask(f, a)
    if mask is not None:
        weights = ops.add(weights, mask, "masked scores")
    weights = ops.softmax(weights, label="attention weights")
    if a.eager == "native":
        weights = ops.cast(weights, v.dtype)
    weights = ops.dropout(weights, a.dropout, f.training)
    out = applied(weights, v)
    f.weights.append(weights)
    return tokens_first(out)


def _fp32_scores(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    q = ops.cast(q, "fp32")
    k = ops.cast(k, "fp32")
    weights = product(q, k)
    smallest = f.tape.new("smallest number", (), "fp32") if a.eager == "fp32-where" else None
    weights = ops.scaled(weights, "scaled scores") if smallest is None else _where(weights)
    mask = _mask(f, a)
    if mask is not None:
        weights = ops.add(weights, mask, "masked scores")
    weights = ops.softmax(weights, label="attention weights")
    weights = ops.cast(weights, v.dtype)
    weights = ops.dropout(weights, a.dropout, f.training)
    out = applied(weights, v)
    f.weights.append(weights)
    return tokens_first(out)


def _bloom(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    assert f.bias is not None
    q, k, v = batched(q), batched(k), batched(v)
    # Packed projections keep the format of their input, which is not autocast's.
    scores = _baddbmm(ops.lowered(f.bias), ops.lowered(q), ops.lowered(k))
    weights = scores
    mask = _mask(f, a)
    if mask is not None:
        weights = ops.add(scores, mask, "masked scores")
    probabilities = ops.cast(ops.softmax(weights, dtype="fp32", label="attention weights"), q.dtype)
    probabilities = ops.dropout(probabilities, a.dropout, f.training)
    f.weights.append(probabilities)
    f.local += [q, k, v, scores, weights]
    return tokens_first(applied(probabilities, v))


def _baddbmm(bias: Value, q: Value, k: Value) -> Value:
    """``bias.baddbmm(q, k.transpose(1, 2), alpha=...)``: either gradient is a product and its multiple."""
    tape, dtype = q.tape, q.dtype
    scores = (*by_heads(q)[:3], ("S", named(k, "TS")[1]))
    (out,) = tape.results("baddbmm", lambda: (tape.new("scores", scores, dtype),))
    q_axes, k_axes = q.axes, k.axes

    def back(g: Value) -> Grads:
        product = tape.new("product before alpha", q_axes, dtype)
        gq = tape.new("gradient of queries", q_axes, dtype)
        product = tape.new("product before alpha", k_axes, dtype)
        gk = tape.new("gradient of keys", k_axes, dtype)
        del product
        return gq, gk

    tape.record((out,), (q, k), back, (q, k))
    return out


def _mpt(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    assert f.bias is not None
    scores = ops.scaled(product(q, k), "scaled scores")
    scores = ops.add(scores, f.bias.view((named(scores, "N"), scores.axes[-1])), "scores with bias")
    mask = _mask(f, a)
    if mask is not None:
        scores = _masked_fill(scores, mask)
    weights = ops.cast(ops.softmax(ops.cast(scores, "fp32"), label="attention weights"), v.dtype)
    weights = ops.dropout(weights, a.dropout, f.training)
    f.weights.append(weights)
    f.local.append(scores)
    return tokens_first(applied(weights, v))


def _masked_fill(x: Value, mask: Value) -> Value:
    """``x.masked_fill(mask, smallest)``: keeps the mask."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("masked scores", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of masked scores", axes, dtype),), (mask,))
    return out


def _hidden(f: Forward) -> str:
    """Format of the block's input, which a layer norm made: fp32 under autocast."""
    return f.tape.weights if f.tape.autocast is None else "fp32"


def _falcon(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    weights = product(q, repeated(k, a.N))
    weights = ops.scaled(weights, "scaled scores", in_place=True)
    mask = _mask(f, a)
    masked = weights if mask is None else ops.add(weights, mask, "masked scores")
    weights = ops.softmax(masked, dtype=_hidden(f), label="attention weights")
    del masked
    f.weights.append(weights)
    return tokens_first(applied(weights, repeated(v, a.N)))


def _falcon_alibi(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    assert f.bias is not None
    scores = product(q, repeated(k, a.N))
    wide = ops.cast(scores, "fp32")
    logits = ops.scaled(ops.add(wide, f.bias, "scores with alibi"), "scaled scores", in_place=True)
    mask = _mask(f, a)
    masked = logits if mask is None else ops.add(logits, mask, "masked scores")
    weights = ops.softmax(masked, dtype=_hidden(f), label="attention weights")
    del masked
    weights = ops.dropout(weights, a.dropout, f.training)
    f.weights.append(weights)
    f.local += [scores, wide, logits]
    return tokens_first(applied(weights, repeated(v, a.N)))


def _biased(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    """A learned bias is added in place (MPNet)."""
    assert f.bias is not None
    scores = ops.scaled(product(q, k), "scaled scores")
    scores = ops.add(scores, f.bias, "scores with bias", in_place=True)
    weights = ops.softmax(scores, label="attention weights")
    weights = ops.dropout(weights, a.dropout, f.training)
    f.local += [scores, weights]
    return tokens_first(applied(weights, v))


def _where(x: Value) -> Value:
    """``torch.where(buffer, x, smallest)``: keeps a view of the buffer only."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("windowed scores", axes, dtype)

    def back(g: Value) -> Grads:
        zeros = tape.new("zero", (("X", 1),), dtype)
        grad = tape.new("gradient of windowed scores", axes, dtype)
        del zeros
        return (grad,)

    tape.record((out,), (x,), back, ())
    return out


def _sinks(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    keys = repeated(k, a.N)
    values = repeated(v, a.N)
    weights = ops.scaled(product(q, keys), "scaled scores")
    mask = _mask(f, a)
    if mask is not None:
        weights = ops.add(weights, mask, "masked scores")
    combined = _with_sink(f, a, weights)
    combined = ops.sub(combined, _highest(combined), "scores below the highest")
    probs = ops.softmax(combined, dtype=combined.dtype, label="attention weights")
    scores = ops.narrow(probs, (*probs.axes[:3], ("S", probs.axes[3][1] - 1)))
    weights = ops.cast(ops.dropout(scores, a.dropout, f.training), values.dtype)
    out = tokens_first(applied(weights, values))
    del combined, probs, scores
    f.weights.append(weights)
    return out


def _with_sink(f: Forward, a: Attention, scores: Value) -> Value:
    """One more column: the head's sink. Both are in the wider format, to which autocast casts the scores before."""
    tape, before = f.tape, scores.axes
    sink = tape.parameter(f"{a.name}.sinks", (("N", a.N),))
    form = ops.promoted(scores.dtype, sink.dtype)
    scores = scores if tape.autocast is None else ops.cast(scores, form)
    out = tape.new("scores and sinks", (*before[:3], ("S", before[3][1] + 1)), form)
    sinks, dtype, narrow = sink.axes, sink.dtype, scores.dtype

    def back(g: Value) -> Grads:
        first = g.view(before) if narrow == form else tape.new(f"gradient to {narrow}", before, narrow)
        return first, tape.new("gradient of sinks", sinks, dtype)

    tape.record((out,), (scores, sink), back, ())
    return out


def _highest(x: Value) -> Value:
    """``x.max(-1, keepdim=True).values``: saves where it was."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("highest score", (*axes[:3], ("X", 1)), dtype)
    place = tape.new("place of the highest", out.axes, "int64")
    tape.record((out,), (x,), lambda g: (tape.new("gradient of highest", axes, dtype),), (place,))
    return out


_STYLES: Final[dict[str, Callable[[Forward, Attention, Value, Value, Value], Value]]] = {
    "fp32-softmax": _default,
    "narrow-softmax": _default,
    "native": _native,
    "uncast": _native,
    "fp32-scores": _fp32_scores,
    "fp32-where": _fp32_scores,
    "bloom": _bloom,
    "mpt": _mpt,
    "falcon": _falcon,
    "falcon-alibi": _falcon_alibi,
    "sinks": _sinks,
    "biased": _biased,
}
