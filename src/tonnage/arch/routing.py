"""How a token's experts are chosen and weighed: the routers of the families' modeling files.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Norm
from tonnage.arch.tape import Grads, Parameter, Value
from tonnage.tensors import Axes

if TYPE_CHECKING:
    from tonnage.arch.experts import Experts

Routing = Literal[
    "softmax-fp32", "softmax", "softmax-input", "softmax-grouped", "sigmoid", "softmax-top", "softmax-top-fp32",
    "softmax-top-wide", "softmax-top-plain", "softmax-corrected", "softmax-scaled", "sigmoid-narrow", "sigmoid-apart",
    "softplus", "own",
]  # fmt: skip
"""How a token's experts are chosen and weighed.

``softmax-fp32`` casts the logits, and the weights stay fp32 (Mixtral); ``softmax`` gives weights in the format of the
logits (Qwen, OLMoE), ``softmax-input`` in that of the tokens (Jamba). ``sigmoid`` and ``softmax-grouped`` are
DeepSeek's third and second: logits in fp32, experts chosen in groups, weights multiplied by a number. ``softmax-top``
takes the softmax of the chosen logits (gpt-oss), ``softmax-top-fp32`` casts them before (Granite),
``softmax-top-wide`` only for the softmax (Cohere), ``softmax-top-plain`` names no format (Aria).
``softmax-scaled`` is Gemma 4's: learned scales of the normed tokens and of the chosen weights, which stay fp32.
``softmax-corrected`` is ERNIE's, ``sigmoid-narrow`` MiniMax's with logits in the format of the tokens,
``sigmoid-apart`` Hunyuan's, which divides into a tensor of its own. ``softplus`` is DeepSeek's fourth: the square root
of a softplus, divided likewise; some of its layers look up a token's experts. ``own`` is any
other: its forward pass is not modelled.
"""


def routed(e: Experts, f: Forward, x: Value, used: int) -> tuple[Value, Value, Value]:
    """The router's logits, the chosen experts' weights and the chosen experts.

    Leaves out: the scores and masks by which DeepSeek's routers choose groups, which die before the experts run.
    """
    top: Axes = (*x.axes[:2], ("X", used))
    if e.routing in ("sigmoid-narrow", "sigmoid-apart"):
        return _corrected(e, f, x, top)
    if e.routing == "softmax-scaled":
        return _scaled(e, f, x, top)
    if e.routing in ("sigmoid", "softmax-grouped"):
        logits = _wide_logits(e, f, x)
        if e.routing == "sigmoid":
            scores = ops.unary(logits, "sigmoid", saves="output")
            chosen = found("topk", scores, "chosen experts", top)
            weights = taken(scores, chosen, top)
        else:
            scores = ops.softmax(logits, dtype="fp32", label="routing scores")
            weights, chosen = highest(_masked(scores) if e.limited else scores, top)
        if e.normalised:
            weights = _normalised(weights, shift=True)
        return logits, ops.scaled(weights, "scaled routing weights"), chosen
    logits = e.scores().forward(f, x)
    if e.routing == "softplus":
        scores = ops.unary(ops.unary(ops.raised(logits), "softplus"), "sqrt", saves="output")
        chosen = f.tape.new("chosen experts", top, "int64")
        return logits, ops.scaled(_divided(taken(scores, chosen, top)), "scaled routing weights"), chosen
    if e.routing == "softmax-top-fp32":
        logits = ops.cast(logits, "fp32")
        best, chosen = highest(logits, top)
        return logits, ops.cast(ops.softmax(best, label="routing weights"), x.dtype), chosen
    if e.routing == "softmax-top-wide":
        best, chosen = highest(logits, top)
        return logits, ops.cast(ops.softmax(best, dtype="fp32", label="routing weights"), x.dtype), chosen
    if e.routing == "softmax-top-plain":
        best, chosen = highest(logits, top)
        return logits, ops.softmax(best, label="routing weights"), chosen
    if e.routing == "softmax-top":
        best, chosen = highest(logits, top)
        return logits, ops.softmax(best, dtype=best.dtype, label="routing weights"), chosen
    weights, chosen = highest(ops.softmax(logits, dtype="fp32", label="routing scores"), top)
    if e.normalised:
        weights = _normalised(weights)
    if e.routing == "softmax-fp32":
        return logits, weights, chosen
    return logits, ops.cast(weights, x.dtype if e.routing == "softmax-input" else logits.dtype), chosen


def _scaled(e: Experts, f: Forward, x: Value, top: Axes) -> tuple[Value, Value, Value]:
    """The scores of all experts in place of the logits, then the chosen ones' weights."""
    scale, by_expert = (f.tape.parameter(t.name, t.axes) for t in e.scales)
    x = Norm(f"{e.router}.norm", (("D", e.D),), "rms-power", weight=False).forward(f, x)
    x = ops.scaled(ops.mul(x, scale, "scaled tokens"), "scaled tokens")
    logits = e.scores().forward(f, x)
    scores = ops.softmax(logits, dtype="fp32", label="routing scores")
    weights, chosen = highest(scores, top)
    weights = _normalised(weights)
    weights = ops.mul(weights, taken(by_expert, chosen, top), "scaled routing weights")
    return scores, weights, chosen


def _corrected(e: Experts, f: Forward, x: Value, top: Axes) -> tuple[Value, Value, Value]:
    """Scores that are corrected for the choice only."""
    narrow = e.routing == "sigmoid-narrow"
    logits = e.scores().forward(f, x) if narrow else _wide_logits(e, f, x)
    scores = ops.unary(ops.cast(logits, "fp32") if narrow else logits, "sigmoid", saves="output")
    chosen = found("topk", scores, "chosen experts", top)
    weights = taken(scores, chosen, top)
    if narrow:
        return logits, _normalised(weights), chosen
    return logits, ops.scaled(_divided(weights), "scaled routing weights"), chosen


def _wide_logits(e: Experts, f: Forward, x: Value) -> Value:
    """Logits of tokens and weight cast to fp32, unless autocast has its way."""
    ins, outs = (("D", e.D),), (("Er", e.E),)
    weight = f.tape.parameter(f"{e.name}.{e.router}.weight", outs + ins)
    given = None if f.tuning is None else f.tuning.alone(f, f"{e.name}.{e.router}", outs, ins)
    wide = ops.cast(x, "fp32")
    matrix = ops.weight_in(weight, "fp32") if given is None else ops.cast(given, "fp32")
    if isinstance(matrix, Parameter):
        return ops.linear(wide, matrix, None, 1, outs)
    return ops.matmul(wide, matrix, x.axes[:2] + outs, "router logits")


def taken(x: Value | Parameter, indices: Value, axes: Axes, *, viewed: bool = False) -> Value:
    """``x[indices]`` or ``gather``: saves the indices; its gradient is as large as ``x``.

    ``viewed``: an axis is put in (``x[None, indices]``), so that the gradient is a view of what the index made.
    """
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("taken", axes, dtype)

    def back(_: Value) -> Grads:
        (g,) = tape.results("index_put", lambda: (tape.new("gradient of taken", before, dtype),))
        g.storage.viewed = viewed
        return (g,)

    tape.record((out,), (x,), back, (indices,))
    return out


def found(op: str | None, of: Value, label: str, axes: Axes, dtype: str = "int64") -> Value:
    """Numbers that an operation finds, through which no gradient flows; None where it works element by element."""
    tape = of.tape
    (made,) = tape.results(op, lambda: (tape.new(label, axes, dtype),)) if op else (tape.new(label, axes, dtype),)
    tape.record((made,), (of.detached(),), lambda _: (None,), ())
    return made


def highest(x: Value, axes: Axes) -> tuple[Value, Value]:
    """``torch.topk``: values and indices; saves the indices."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    values, indices = tape.results(
        "topk", lambda: (tape.new("highest", axes, dtype), tape.new("chosen experts", axes, "int64"))
    )
    tape.record((values,), (x,), lambda g: (tape.new("gradient of highest", before, dtype),), (indices,))
    return values, indices


def _masked(x: Value) -> Value:
    """``masked_fill``: saves the mask, a byte an element."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    mask = tape.new("mask of groups", axes, "bool")
    out = tape.new("masked", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of masked", axes, dtype),), (mask,))
    return out


def _normalised(x: Value, *, shift: bool = False) -> Value:
    """``x /= x.sum(-1, keepdim=True)``, in place: a copy of what was there is saved beside the sum."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    one: Axes = (*axes[:-1], ("X", 1))
    # Autocast sums in fp32.
    total = tape.new("sum of weights", one, dtype if tape.autocast is None else "fp32")
    tape.record((total,), (x,), lambda g: (g.view(axes),), ())
    if shift:
        total = ops.shifted(total)
    before = tape.new("weights before", axes, dtype)
    out = Value(x.storage, axes, dtype)

    def back(g: Value) -> Grads:
        return tape.new("gradient of quotient", axes, dtype), tape.new("gradient of divisor", one, dtype)

    tape.record((out,), (x, total), back, (before, total))
    return out


def _divided(x: Value) -> Value:
    """``x / (x.sum(-1, keepdim=True) + eps)``: both operands are saved."""
    tape, axes, before = x.tape, x.axes, x.dtype
    one: Axes = (*axes[:-1], ("X", 1))
    # Autocast sums in fp32.
    dtype = before if tape.autocast is None else "fp32"
    total = tape.new("sum of weights", one, dtype)
    tape.record((total,), (x,), lambda g: (ops.cast(g, before).view(axes),), ())
    total = ops.shifted(total)
    out = tape.new("weights of the chosen", axes, dtype)

    def back(g: Value) -> Grads:
        quotient = ops.fitted(tape.new("gradient of quotient", axes, dtype), axes, before)
        return quotient, tape.new("gradient of divisor", one, dtype)

    tape.record((out,), (x, total), back, (x, total))
    return out
