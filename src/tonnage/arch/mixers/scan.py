"""State-space mixers as transformers runs them without ``mamba_ssm`` and ``causal_conv1d``: in operations of torch.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mamba/modeling_mamba.py
(``mamba_selective_scan``) and .../mamba2/modeling_mamba2.py (``mamba2_chunk_scan``).

Leaves out: what the convolution's own kernels take while they run; the sum of projections in and out with a bias.
"""

from __future__ import annotations

from typing import Any

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.tape import Grads, Parameter, Tape, Value, needs_grad
from tonnage.tensors import Axes, Axis, size


def loop(
    xs: Value, step: Value, A: Value, b: Value, c: Value, skip: Value | Parameter, gate: Value, bias: Value | Parameter
) -> Value:
    """``mamba_selective_scan``: one state after the other."""
    B, I, T = xs.axes  # noqa: E741
    Z = A.axes[1]
    tape, wide = xs.tape, (B, I, T, Z)
    step = ops.add(step, to(bias, step.dtype), "time step")
    step = _softplus(step)
    decays = exp(ops.mul(A, step, "decays before exp", axes=wide))
    inputs = ops.mul(step, to(b, "fp32"), "inputs of the state", axes=wide)
    driven = ops.mul(inputs, to(xs, "fp32"), "what drives the state", axes=wide)
    state = tape.new("state", (B, I, Z), xs.dtype)
    outputs = []
    for _ in range(T[1]):
        decayed = ops.mul(ops.narrow(decays, (B, I, Z)), state, "decayed state", axes=(B, I, Z))
        state = ops.add(decayed, ops.narrow(driven, (B, I, Z)), "state")
        del decayed
        out = ops.matmul(to(state, xs.dtype), ops.narrow(c, (B, Z)), (B, I, ("X", 1)), "output of a token")
        outputs.append(ops.narrow(out, (B, I)))
    out = ops.cat(tuple(outputs), (B, I, T), "outputs")
    out = ops.add(out, ops.mul(xs, skip, "skipped", axes=xs.axes), "output and skip")
    return ops.mul(out, ops.unary(gate, "silu"), "gated output", axes=xs.axes)


def to(x: Value | Parameter, dtype: str) -> Any:
    """``x.to(dtype)`` of an activation or a weight: nothing where it has that format."""
    if x.dtype == dtype:
        return x
    return ops.cast_weight(x, dtype) if isinstance(x, Parameter) else ops.cast(x, dtype)


def exp(x: Value) -> Value:
    """``torch.exp``: keeps its result."""
    return ops.unary(x, "exp", saves="output")


def _softplus(x: Value) -> Value:
    """Autocast runs it in fp32."""
    return ops.unary(to(x, "fp32") if x.tape.autocast is not None else x, "softplus")


def decay(log: Parameter) -> Value:
    """``-exp(A_log.float())``."""
    return ops.scaled(rate(log), "decay")


def rate(log: Parameter) -> Value:
    """``exp(A_log.float())``."""
    tape, axes, x = log.tape, log.axes, to(log, "fp32")
    out = tape.new("exp", axes, "fp32")
    tape.record((out,), (x,), lambda g: (tape.new("gradient of exp", axes, "fp32"),), (out,))
    return out


def turned(x: Value, axes: Axes) -> Value:
    """Dimensions in another order: a view, whose gradient is copied back to the first order."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = Value(x.storage, axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient, turned", before, dtype),), ())
    return out


def rows(x: Value, T: Axis, I: Axis) -> Value:  # noqa: E741
    """A linear layer's input whose tokens lie last: copied to lie first, but for a single sequence."""
    B = x.axes[0]
    x = ops.lowered(x)
    return ops.copy(x, (B, T, I)) if B[1] > 1 else x.view((B, T, I))


def convolution(tape: Tape, x: Value, path: str, C: int, bias: bool, act: str) -> Value:
    """``F.conv1d`` of every channel by itself, padded on both sides, cut to the first ``T`` outputs; activated where
    ``act`` names a function."""
    (B, I, T), before = x.axes, x.dtype  # noqa: E741
    weight = tape.parameter(f"{path}.weight", (I, ("X", 1), ("C", C)))
    shift = tape.parameter(f"{path}.bias", (I,)) if bias else None
    given = to(x, weight.dtype)
    # Autocast's casts are made from the last argument to the first. That of the weight, which comes as a view, is not
    # cached.
    shift_in = None if shift is None else ops.lowered_weight(shift)
    kernel = weight if tape.autocast is None else to(weight, tape.autocast)
    x = ops.lowered(given)
    out = tape.new("convolution", (B, I, ("T", T[1] + C - 1)), x.dtype)
    axes, stored, dtype = x.axes, weight.axes, x.dtype
    grad_x, grad_w, grad_b = needs_grad(x), needs_grad(kernel), needs_grad(shift_in)

    def back(g: Value) -> Grads:
        gx = tape.new("gradient of channels", axes, dtype) if grad_x else None
        gw = tape.new("gradient of convolution", stored, dtype) if grad_w else None
        gb = tape.new("gradient of convolution bias", (I,), dtype) if grad_b else None
        return gx, gw, gb

    saved = (x, kernel) if isinstance(kernel, Value) else (x,)
    tape.record((out,), (x, kernel, shift_in), back, saved)
    del given, x, kernel, shift_in, saved
    out = ops.narrow(out, (B, I, T))
    out = activate(out, act) if act else out
    return ops.cast(out, before)


def step(latent: Value, weight: Parameter, channels: Axes) -> Value:
    """``weight @ latent^T``: computed with the tokens first, then copied to have them last."""
    return ops.copy(turned(ops.linear(latent, weight, None, 1, channels[1:2]), channels), label="time step")


def blocks(chunk: int, xs: Value, b: Value, c: Value, step: Value, A: Value, skip: Parameter, bias: Parameter) -> Value:
    """``mamba2_chunk_scan``: a product of matrices within each block, a recurrence over the blocks' states."""
    B, T, N, H = xs.axes
    Z = b.axes[-1]
    blocks = -(-T[1] // chunk)
    length, n = ("T", blocks * chunk), ("X", blocks)
    several = blocks * B[1] > 1
    inside, other, later = ("T", chunk), ("S", chunk), ("X", blocks + 1)
    step = ops.add(step, to(bias, step.dtype), "time step")
    step = _softplus(step)
    step = ops.unary(step, "clamp")
    xs = to(xs, "fp32")
    b = repeated(to(b, "fp32"), (B, T, N, Z))
    c = repeated(to(c, "fp32"), (B, T, N, Z))
    skipped = ops.mul(_padded(xs, length), skip, "skipped", axes=(B, length, N, H))
    xs = ops.mul(xs, to(step, "fp32"), "inputs", axes=xs.axes)
    A = ops.mul(to(step, "fp32"), A, "decays", axes=(B, T, N))
    A = _padded(A, length)
    xs, b, c = (_in_blocks(_padded(x, length), blocks) for x in (xs, b, c))
    total = cumulated(A.view((B, N, n, inside)), (B, N, n, inside))

    decay = exp(_segments(A.view((B, N, n, inside)), (B, N, n, inside, other)))
    scores = _contracted(c, b, (B, n, inside, other, N), several, several)
    mixed = ops.mul(scores, decay, "decayed scores", axes=(B, n, inside, other, N))
    diagonal = _contracted(mixed, xs, (B, n, inside, N, H), False, blocks > 1, several)

    remaining = exp(ops.sub(ops.narrow(total, (B, N, n)), total, axes=total.axes))
    fading = ops.mul(b, remaining, "fading state vectors", axes=(B, n, inside, N, Z))
    states = _contracted(fading, xs, (B, n, N, H, Z), several, blocks > 1, blocks > 1)

    first = xs.tape.new("first state", (B, ("X", 1), N, H, Z), states.dtype)
    states = ops.cat((first, states), (B, later, N, H, Z), "states")
    across = exp(_segments(widened(ops.narrow(total, (B, N, n)), (B, N, later)), (B, N, later, ("S", blocks + 1))))
    ahead = _contracted(across, states, (B, later, N, H, Z), False, B[1] > 1, B[1] > 1)
    states = ops.narrow(ahead, (B, n, N, H, Z))

    leaving = exp(total)
    read = _contracted(c, states, (B, n, inside, N, H), several, blocks > 1, several)
    out = ops.mul(read, leaving, "output of states", axes=(B, n, inside, N, H))
    summed = ops.copy(ops.add(diagonal, out, "output of blocks"), (B, length, N, H))
    summed = ops.add(summed, skipped, "output and skip")
    return summed if length == T else ops.narrow(summed, (B, T, N, H))


def gated_norm(x: Value, gate: Value, weight: Parameter, G: int) -> Value:
    """``MambaRMSNormGated``: an RMS norm over each of ``G`` groups of the gated channels."""
    before, axes = x.dtype, x.axes
    x = to(x, "fp32")
    x = ops.mul(x, ops.unary(to(gate, "fp32"), "silu"), "gated", axes=axes)
    groups = x.view((*axes[:-1], ("K", G), ("X", axes[-1][1] // G)))
    variance = ops.mean(ops.power(groups, "square"))
    groups = ops.mul(groups, ops.rsqrt(ops.shifted(variance)), "normalised", axes=groups.axes)
    x = groups.view(axes)
    return ops.mul(to(x, before), weight, "norm output", axes=axes)


def norm_in_groups(x: Value, gate: Value, weight: Parameter, G: int) -> Value:
    """``FalconH1RMSNormGated`` with ``norm_before_gate``: the norm over each of ``G`` groups, then the gate."""
    before, axes = x.dtype, x.axes
    x = to(x, "fp32")
    groups = x.view((*axes[:-1], ("K", G), ("X", axes[-1][1] // G)))
    variance = ops.mean(ops.power(groups, "square"))
    x = ops.mul(groups, ops.rsqrt(ops.shifted(variance)), "normalised", axes=groups.axes).view(axes)
    x = ops.mul(weight, x, "norm output", axes=axes)
    x = ops.mul(x, ops.unary(to(gate, "fp32"), "silu"), "gated", axes=axes)
    return ops.cast(x, before)


def norm_gated(x: Value, gate: Value, weight: Parameter) -> Value:
    """``Qwen3NextRMSNormGated``: an RMS norm over each head, then the gate."""
    before, axes = x.dtype, x.axes
    x = to(x, "fp32")
    variance = ops.mean(ops.power(x, "square"))
    x = ops.mul(x, ops.rsqrt(ops.shifted(variance)), "normalised", axes=axes)
    x = ops.mul(weight, to(x, before), "norm output", axes=axes)
    x = ops.mul(x, ops.unary(to(gate, "fp32"), "silu"), "gated", axes=axes)
    return ops.cast(x, before)


def _contracted(a: Value, b: Value, axes: Axes, copy_a: bool, copy_b: bool, copy_gradient: bool = False) -> Value:
    """``einsum`` as a batched product, with copies where a permuted layout does not allow a view.

    Batch, block and head of the operands can be one dimension only where they lie in that order; what has a single
    sequence or a single block often does.
    """
    a, b = ops.lowered(a), ops.lowered(b)
    out = ops.matmul(ops.copy(a) if copy_a else a, ops.copy(b) if copy_b else b, axes, "contraction")
    return turned(out, axes) if copy_gradient else out


def repeated(x: Value, axes: Axes) -> Value:
    """``repeat_interleave``: a copy for every head of a group."""
    return ops.copy(x, axes, "repeated")


def _padded(x: Value, length: Axis) -> Value:
    """``F.pad`` behind the last token: a copy even where nothing is added; so is its gradient."""
    return widened(x, tuple(length if a[0] == "T" else a for a in x.axes))


def _in_blocks(x: Value, blocks: int) -> Value:
    """Tokens in blocks: a view, whose gradient comes with heads before tokens."""
    return turned(x, x.axes) if blocks > 1 else x


def widened(x: Value, axes: Axes) -> Value:
    """``F.pad``."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("padded", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of padding", before, dtype),), ())
    return out


def cumulated(x: Value, axes: Axes) -> Value:
    """``torch.cumsum``: its backward flips, sums and flips back."""
    tape, dtype = x.tape, x.dtype
    out = tape.new("cumulated", axes, dtype)

    def back(g: Value) -> Grads:
        flipped = tape.new("flipped gradient", axes, dtype)
        added = tape.new("cumulated gradient", axes, dtype)
        grad = tape.new("gradient of cumulated", axes, dtype)
        del flipped, added
        return (grad,)

    tape.record((out,), (x,), back, ())
    return out


def masked(x: Value, axes: Axes, mask: Value) -> Value:
    """``masked_fill``: keeps the mask."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("masked", axes, dtype)

    def back(g: Value) -> Grads:
        grad = tape.new("gradient of masked", axes, dtype)
        if size(before) != size(axes):
            grad = tape.new("gradient of masked, summed", before, dtype)
        return (grad,)

    tape.record((out,), (x,), back, (mask,))
    return out


def _mask(tape: Tape, square: Axes) -> Value:
    """``torch.tril(torch.ones(...))``."""
    ones = tape.new("ones", square, "bool")
    mask = tape.new("triangle", square, "bool")
    del ones
    return mask


def _segments(x: Value, axes: Axes) -> Value:
    """``segment_sum``: sums of every stretch of a block, as a lower triangle."""
    tape, square = x.tape, axes[-2:]
    mask = _mask(tape, square)
    x = masked(x, axes, tape.new("not mask", square, "bool"))
    total = cumulated(x, axes)
    mask = _mask(tape, square)
    total = masked(total, axes, tape.new("not mask", square, "bool"))
    del mask
    return total
