"""Rotary position embedding applied to queries and keys (arXiv:2104.09864)."""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.eager import by_heads
from tonnage.arch.tape import Grads, Value
from tonnage.tensors import halved


def rotate(
    q: Value,
    k: Value,
    cosine: Value,
    sine: Value,
    width: int,
    *,
    interleaved: bool = False,
    style: str = "plain",
    keep: list[Value] | None = None,
) -> tuple[Value, Value]:
    """Turn the first ``width`` elements of every head of ``q`` and ``k``.

    Args:
        q: queries, axes ``B T N H``.
        k: keys, axes ``B T K H``.
        cosine: table, axes ``T X``.
        sine: table, axes ``T X``.
        width: elements of a head that are turned; the rest is passed on.
        interleaved: neighbours are pairs, not halves.
        style: how the modelled code does it: "plain" (Llama), "cut" where the rest is cut off even if it is empty
            (Phi, StableLM), or a name in ``_STYLES``.
        keep: where the parts go whose names stand until the block returns.
    """
    if style in _STYLES:
        return _STYLES[style](q, k, cosine, sine)
    if q.axes[-1][1] == width and style == "plain":
        return turned(q, cosine, sine), turned(k, cosine, sine)
    q_turn, q_pass = parts(q, width)
    k_turn, k_pass = parts(k, width)
    q_turn, k_turn = turned(q_turn, cosine, sine), turned(k_turn, cosine, sine)
    if keep is not None:
        keep += [q_turn, q_pass, k_turn, k_pass]
    # A join lays heads before tokens, whatever it was given.
    q_axes, k_axes = by_heads(q), by_heads(k)
    q = ops.cat((q_turn, q_pass), q_axes)
    k = ops.cat((k_turn, k_pass), k_axes)
    return q, k


def turned(x: Value, cosine: Value, sine: Value, *, by_heads: bool = True) -> Value:
    """``x * cos + rotate_half(x) * sin``; ``by_heads``: as most code does, when heads have been put before tokens."""
    return ops.add(
        ops.mul(x, cosine, "turned by cosine"),
        ops.mul(_rotate_half(x, by_heads=by_heads), sine, "turned by sine"),
        "rotated",
    )


def _rotate_half(x: Value, *, by_heads: bool = True) -> Value:
    half = halved(x.axes, "H")
    first = ops.narrow(x, half, by_heads=by_heads)
    second = ops.narrow(x, half, by_heads=by_heads)
    return ops.cat((ops.scaled(second, "negated half"), first), x.axes, "half turned")


def _back(q: Value, k: Value, cosine: Value, sine: Value) -> tuple[Value, Value]:
    """By a table in fp32, and cast back to the format of the queries (OLMo)."""
    q_turned, k_turned = turned(q, cosine, sine), turned(k, cosine, sine)
    return ops.cast(q_turned, q.dtype), ops.cast(k_turned, k.dtype)


def _wide(q: Value, k: Value, cosine: Value, sine: Value) -> tuple[Value, Value]:
    """Cast to fp32 before and back after (Cohere)."""
    before = q.dtype
    q = ops.cast(q, "fp32")
    k = ops.cast(k, "fp32")
    q_turned, k_turned = turned(q, cosine, sine), turned(k, cosine, sine)
    return ops.cast(q_turned, before), ops.cast(k_turned, before)


def _wide_by_turns(q: Value, k: Value, cosine: Value, sine: Value) -> tuple[Value, Value]:
    """As ``_wide``, with tokens before heads, the name of each bound to its cast anew (Qwen2-VL's tower)."""
    before = q.dtype
    q = ops.cast(q, "fp32")
    k = ops.cast(k, "fp32")
    q_turned, k_turned = (turned(x, cosine, sine, by_heads=False) for x in (q, k))
    q_turned = ops.cast(q_turned, before)
    k_turned = ops.cast(k_turned, before)
    return q_turned, k_turned


def _wide_joined(q: Value, k: Value, cosine: Value, sine: Value) -> tuple[Value, Value]:
    """Queries, then keys: cast to fp32, turned, joined with what is not turned, which is empty, cast back (Qwen)."""
    return _wide_one(q, cosine, sine), _wide_one(k, cosine, sine)


def _wide_one(x: Value, cosine: Value, sine: Value) -> Value:
    first, rest = parts(x, cosine.axes[-1][1])
    first, rest = ops.cast(first, "fp32"), ops.cast(rest, "fp32")
    first = turned(first, cosine, sine)
    return ops.cast(ops.cat((first, rest), x.axes), x.dtype)


def _apart(q: Value, k: Value, cosine: Value, sine: Value) -> tuple[Value, Value]:
    """As ``_wide``, each product of a cast of its own (ModernBERT)."""
    q_turned, k_turned = _twice_cast(q, cosine, sine), _twice_cast(k, cosine, sine)
    return ops.cast(q_turned, q.dtype), ops.cast(k_turned, k.dtype)


def _twice_cast(x: Value, cosine: Value, sine: Value) -> Value:
    return ops.add(
        ops.mul(ops.cast(x, "fp32"), cosine, "turned by cosine"),
        ops.mul(_rotate_half(ops.cast(x, "fp32")), sine, "turned by sine"),
        "rotated",
    )


def parts(x: Value, width: int) -> tuple[Value, Value]:
    """What is turned, and the rest, which is cut off even where it is empty; a slice of everything is a view."""
    whole = x.axes[-1][1]
    first = x if whole == width else ops.narrow(x, (*x.axes[:-1], ("H", width)), by_heads=True)
    return first, ops.narrow(x, (*x.axes[:-1], ("H", whole - width)), by_heads=True)


def _joined(q: Value, k: Value, cosine: Value, sine: Value) -> tuple[Value, Value]:
    """The turned part joined with the rest, which may be empty (Phi-3)."""
    width = cosine.axes[-1][1]
    q_turn, q_rest = parts(q, width)
    k_turn, k_rest = parts(k, width)
    q_turned = ops.cat((turned(q_turn, cosine, sine), q_rest), by_heads(q))
    k_turned = ops.cat((turned(k_turn, cosine, sine), k_rest), by_heads(k))
    return q_turned, k_turned


def _returned(q: Value, k: Value, cosine: Value, sine: Value) -> tuple[Value, Value]:
    """As ``_joined``, both turned before either is joined, the parts' names kept until both are (Nemotron)."""
    width = cosine.axes[-1][1]
    q_turn, q_rest = parts(q, width)
    k_turn, k_rest = parts(k, width)
    q_turned = turned(q_turn, cosine, sine)
    k_turned = turned(k_turn, cosine, sine)
    return ops.cat((q_turned, q_rest), by_heads(q)), ops.cat((k_turned, k_rest), by_heads(k))


def _repeated(q: Value, k: Value, cosine: Value, sine: Value) -> tuple[Value, Value]:
    """Every layer repeats half of the table for itself (GLM-4)."""
    cosine = ops.copy(cosine, label="cosine, repeated")
    sine = ops.copy(sine, label="sine, repeated")
    width = cosine.axes[-1][1]
    q_turn, q_rest = parts(q, width)
    k_turn, k_rest = parts(k, width)
    q_turned = turned(q_turn, cosine, sine)
    k_turned = turned(k_turn, cosine, sine)
    q_turned = ops.cat((q_turned, q_rest), by_heads(q))
    k_turned = ops.cat((k_turned, k_rest), by_heads(k))
    return q_turned, k_turned


def _interleaved(q: Value, k: Value, cosine: Value, sine: Value) -> tuple[Value, Value]:
    """As ``_repeated``, the whole head (Helium)."""
    cosine = ops.copy(cosine, label="cosine, repeated")
    sine = ops.copy(sine, label="sine, repeated")
    q_turned = turned(q, cosine, sine)
    k_turned = turned(k, cosine, sine)
    return q_turned, k_turned


def _interleaved_wide(q: Value, k: Value, cosine: Value, sine: Value) -> tuple[Value, Value]:
    """As ``_interleaved``, each part cast to fp32 before it is turned, the sum cast back (ERNIE 4.5)."""
    before = q.dtype
    cosine = ops.copy(cosine, label="cosine, repeated")
    sine = ops.copy(sine, label="sine, repeated")
    q_turned = _turned_wide(q, cosine, sine)
    k_turned = _turned_wide(k, cosine, sine)
    return ops.cast(q_turned, before), ops.cast(k_turned, before)


def _turned_wide(x: Value, cosine: Value, sine: Value) -> Value:
    return ops.add(
        ops.mul(ops.cast(x, "fp32"), cosine, "turned by cosine"),
        ops.mul(ops.cast(_rotate_half(x), "fp32"), sine, "turned by sine"),
        "rotated",
    )


def _rebound(q: Value, k: Value, cosine: Value, sine: Value) -> tuple[Value, Value]:
    """As ``_joined``, both turned before either is joined, the names bound anew (GPT-NeoX)."""
    width = cosine.axes[-1][1]
    q_turn, q_rest = parts(q, width)
    k_turn, k_rest = parts(k, width)
    q_turned = turned(q_turn, cosine, sine)
    k_turned = turned(k_turn, cosine, sine)
    q_turned = ops.cat((q_turned, q_rest), by_heads(q))
    k_turned = ops.cat((k_turned, k_rest), by_heads(k))
    return q_turned, k_turned


def _crossed(first: Value, second: Value, cosine: Value, sine: Value, whole: Value) -> Value:
    """``first * cos - second * sin`` and ``second * cos + first * sin``, joined."""
    left = ops.sub(ops.mul(first, cosine, "turned by cosine"), ops.mul(second, sine, "turned by sine"), "first turned")
    right = ops.add(ops.mul(second, cosine, "turned by cosine"), ops.mul(first, sine, "turned by sine"), "last turned")
    return ops.cat((left, right), by_heads(whole))


def _chunked(q: Value, k: Value, cosine: Value, sine: Value) -> tuple[Value, Value]:
    """Halves written out, by a table of half the width (gpt-oss)."""
    q_half, k_half = halved(q.axes, "H"), halved(k.axes, "H")
    q_first, q_second = ops.split(q, (q_half, q_half))
    k_first, k_second = ops.split(k, (k_half, k_half))
    q_turned = _crossed(q_first, q_second, cosine, sine, q)
    k_turned = _crossed(k_first, k_second, cosine, sine, k)
    return q_turned, k_turned


def _neighbours(q: Value, k: Value, cosine: Value, sine: Value) -> tuple[Value, Value]:
    """Neighbours written out, by half of the table (DeepSeek-V3)."""
    table = halved(cosine.axes, "X")
    cosine, sine = cosine.view(table), sine.view(table)
    q_half, k_half = halved(q.axes, "H"), halved(k.axes, "H")
    q_first, q_second = ops.narrow(q, q_half, by_heads=True), ops.narrow(q, q_half, by_heads=True)
    k_first, k_second = ops.narrow(k, k_half, by_heads=True), ops.narrow(k, k_half, by_heads=True)
    q_turned = _crossed(q_first, q_second, cosine, sine, q)
    k_turned = _crossed(k_first, k_second, cosine, sine, k)
    return q_turned, k_turned


def _complex(q: Value, k: Value, table: Value, _: Value) -> tuple[Value, Value]:
    """Neighbours as complex numbers times a complex table, in fp32 (DeepSeek-V2)."""
    q_wide = ops.cast(q, "fp32")
    k_wide = ops.cast(k, "fp32")
    q_turned = ops.cast(_by_numbers(q_wide, table), q.dtype)
    k_turned = ops.cast(_by_numbers(k_wide, table), k.dtype)
    return q_turned, k_turned


def _complex_returned(q: Value, k: Value, table: Value, _: Value) -> tuple[Value, Value]:
    """As ``_complex``, both products named until they are cast (Llama 4)."""
    q_wide = ops.cast(q, "fp32")
    k_wide = ops.cast(k, "fp32")
    q_turned = _by_numbers(q_wide, table)
    k_turned = _by_numbers(k_wide, table)
    return ops.cast(q_turned, q.dtype), ops.cast(k_turned, k.dtype)


def _by_numbers(x: Value, table: Value) -> Value:
    """Times complex numbers; the backward pass lays out their conjugates."""
    tape, axes, numbers = x.tape, x.axes, table.axes
    out = tape.new("turned", axes, "fp32")

    def back(g: Value) -> Grads:
        conjugates = tape.new("conjugates of the table", numbers, "fp32")
        grad = tape.new("gradient of product", axes, "fp32")
        del conjugates
        return (grad,)

    tape.record((out,), (x,), back, (table,))
    return out


_STYLES = {
    "complex": _complex,
    "complex, returned": _complex_returned,
    "back": _back,
    "wide": _wide,
    "wide, by turns": _wide_by_turns,
    "wide, joined": _wide_joined,
    "apart": _apart,
    "joined": _joined,
    "repeated": _repeated,
    "interleaved": _interleaved,
    "interleaved-wide": _interleaved_wide,
    "rebound": _rebound,
    "returned": _returned,
    "chunked": _chunked,
    "neighbours": _neighbours,
}
