"""Entries that stand for many tokens, and keys that are turned at their end: what DeepSeek-V4's attention is made of.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deepseek_v4/
modeling_deepseek_v4.py (apply_rotary_pos_emb, DeepseekV4HCACompressor, DeepseekV4CSACompressor,
DeepseekV4GroupedLinear)
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.inplace import filled
from tonnage.arch.layers import Linear
from tonnage.arch.tape import Grads, Parameter, Tape, Value, needs_grad
from tonnage.errors import UnsupportedError
from tonnage.tensors import Axes, halved


def turned(x: Value, cosine: Value, sine: Value, width: int, axes: Axes) -> Value:
    """The last ``width`` elements of every head turned as pairs of neighbours, in fp32; joined, it lies as ``axes``."""
    *rest, (H, whole) = x.axes
    cosine = ops.copy(cosine, (*cosine.axes[:-1], ("X", width)), "cosine, repeated")
    sine = ops.copy(sine, (*sine.axes[:-1], ("X", width)), "sine, repeated")
    plain = ops.narrow(x, (*rest, (H, whole - width)), by_heads=True)
    rope = ops.narrow(x, (*rest, (H, width)), by_heads=True)
    by_cosine = ops.mul(ops.cast(rope, "fp32"), cosine, "turned by cosine")
    by_sine = ops.mul(ops.cast(_half(rope), "fp32"), sine, "turned by sine")
    total = ops.add(by_cosine, by_sine, "turned")
    del by_cosine, by_sine
    rotated = ops.cast(total, x.dtype)
    del total
    return ops.cat((plain, rotated), axes, "turned heads")


def _half(x: Value) -> Value:
    half = halved(x.axes, "H")
    first, second = ops.narrow(x, half, by_heads=True), ops.narrow(x, half, by_heads=True)
    return ops.cat((ops.scaled(second, "negated half"), first), x.axes, "half turned")


def angles(tape: Tape, rows: Axes, width: int, dtype: str) -> tuple[Value, Value]:
    """Cosine and sine for the positions of ``rows``, half as wide as what they turn."""
    table: Axes = (*rows, ("X", width // 2))
    numbers = tape.new("positions as numbers", rows, "fp32")
    half = tape.new("rotary angles", table, "fp32")
    del numbers
    found = []
    for name in ("cosine", "sine"):
        plain = tape.new(name, table, "fp32")
        found.append(tape.new(f"{name}, scaled", table, "fp32"))
        del plain
    del half
    # Both stand until both are cast.
    wide = found
    first = ops.cast(wide[0], dtype)
    second = ops.cast(wide[1], dtype)
    return first, second


def pooled(keys: Value, gate: Value) -> Value:
    """Every window's keys, each weighed by a softmax over the window, added up. Axes ``B X T H`` to ``B X H``."""
    weights = ops.cast(ops.softmax(gate, dtype="fp32", label="weights of a window"), keys.dtype)
    weighed = ops.mul(keys, weights, "weighed keys")
    del weights
    tape, before = keys.tape, weighed.axes
    # Autocast sums in fp32.
    form = weighed.dtype if tape.autocast is None else "fp32"
    out = tape.new("entries", (*before[:2], before[3]), form)
    tape.record((out,), (weighed,), lambda g: (g.view(before),), ())
    return out


def overlapping(given: tuple[Value, Value], H: int) -> tuple[Value, Value]:
    """Windows twice as long, of keys and of their weights: a token's second part in its own, its first in the next."""
    B, n, (T, rate), (_, both) = given[0].axes
    whole: Axes = (B, n, (T, 2 * rate), ("H", H))
    own: Axes = (B, n, (T, rate), ("H", H))
    earlier: Axes = (B, (n[0], n[1] - 1), (T, rate), ("H", both))
    before: Axes = (*earlier[:3], ("H", H))
    keys, gate = (x.tape.new("overlapping windows", whole, x.dtype) for x in given)
    keys = filled(keys, ops.narrow(given[0], own), own)
    gate = filled(gate, ops.narrow(given[1], own), own)
    if n[1] > 1:
        keys = filled(keys, ops.narrow(ops.narrow(given[0], earlier), before), before)
        gate = filled(gate, ops.narrow(ops.narrow(given[1], earlier), before), before)
    return keys, gate


def grouped(f: Forward, matrix: Linear, x: Value, G: int, outs: Axes) -> Value:
    """A matrix of its own for each of ``G`` groups of heads: ``x`` has axes ``B T X H``, what it makes ``B T`` and
    ``outs``."""
    if f.tuning is not None and f.tuning.adapts(matrix.name):
        name = matrix.name.rpartition(".")[2]
        raise UnsupportedError(
            f"lora_targets: an adapter of {name} fails in peft: its output is as wide as all groups together",
            key="lora_targets", value=name, hint="name other modules, such as q_b_proj,o_b_proj",
        )  # fmt: skip
    tape, (B, T), inner = f.tape, x.axes[:2], x.axes[3]
    weight = tape.parameter(f"{matrix.name}.weight", matrix.outs + matrix.ins)
    w = _lowered(weight)
    # The product takes groups first; a single one lies so already.
    x = ops.lowered(x)
    first: Axes = (("X", G), B, T, inner)
    given, dtype, axes = x.view(first), x.dtype, weight.axes
    made: Axes = (("X", G), B, T, outs[1])
    out = tape.product("grouped outputs", made, dtype)
    grad_x, grad_w = needs_grad(x), needs_grad(w)

    def back(g: Value) -> Grads:
        gw = None
        if grad_w:
            product = tape.product("weight gradient", axes, dtype)
            gw = tape.new("weight gradient by groups", axes, dtype) if G > 1 else product
            del product
        gx = tape.product("input gradient", first, dtype) if grad_x else None
        if gx is not None:
            gx.storage.viewed = True
        return gx, gw

    saved = (*((given,) if grad_w else ()), *((w,) if grad_x and isinstance(w, Value) else ()))
    tape.record((out,), (given, w), back, saved, keeps_weight=grad_x)
    del given, w, x
    return ops.copy(out, (B, T, *outs), "outputs by tokens") if G > 1 else out.view((B, T, *outs))


def _lowered(weight: Parameter) -> Value | Parameter:
    """Autocast casts a view of a weight anew every time."""
    tape, axes, before = weight.tape, weight.axes, weight.dtype
    if tape.autocast is None or before == tape.autocast:
        return weight
    out = tape.new(f"{weight.name} cast", axes, tape.autocast)
    tape.record((out,), (weight,), lambda g: (tape.new("cast weight gradient", axes, before),), ())
    return out
