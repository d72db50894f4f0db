"""The gated delta rule as transformers runs it without flash-linear-attention: in operations of torch, in fp32.

Within a chunk of 64 tokens a triangular system is solved; from chunk to chunk a loop carries the state.

References: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3_next/modeling_qwen3_next.py
(``torch_chunk_gated_delta_rule``, ``l2norm``); https://github.com/pytorch/pytorch/blob/v2.13.0/
torch/csrc/autograd/FunctionsManual.cpp (``linalg_solve_triangular_backward``), aten/src/ATen/native/
BatchLinearAlgebra.cpp (``linalg_solve_triangular_out``, whose result lies column by column).

Leaves out: pointers of batched solvers, which are freed before the operation returns.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch import ops
from tonnage.arch.inplace import filled
from tonnage.arch.mixers.scan import cumulated, exp, masked, repeated, to, widened
from tonnage.arch.tape import Grads, Tape, Value, needs_grad
from tonnage.tensors import Axes, Axis

CHUNK: Final = 64


def delta_rule(q: Value, k: Value, v: Value, g: Value, beta: Value) -> Value:
    """``torch_chunk_gated_delta_rule`` with queries and keys normalised inside.

    Args:
        q, k: parts of something larger, axes ``B T K H``.
        v: the same, axes ``B T N H``.
        g: decays, axes ``B T N``, in fp32.
        beta: rates, axes ``B T N``.

    Returns:
        The heads' outputs, axes ``B T N H``; in fp32 not contiguous.
    """
    tape, before = q.tape, q.dtype
    (B, T, K, H), (_, _, N, VH) = k.axes, v.axes
    if K[1] != N[1]:
        q, k = (repeated(relaid(x), (B, T, N, H)) for x in (q, k))
    q, k, v, beta, g = [to(transposed(x), "fp32") for x in (q, k, v, beta, g)]
    q = normalised(q)
    k = normalised(k)
    q = ops.scaled(q, "scaled queries")

    n, inside, other = ("X", -(-T[1] // CHUNK)), ("T", CHUNK), ("S", CHUNK)
    length = ("T", n[1] * CHUNK)
    heads: Axes = (B, N, n)
    keys, values, steps, square = (*heads, inside, H), (*heads, inside, VH), (*heads, inside), (*heads, inside, other)
    q, k, v = [widened(x, (B, N, length, x.axes[3])) for x in (q, k, v)]
    beta, g = [widened(x, (B, N, length)) for x in (beta, g)]
    v_beta = ops.mul(v, column(beta), "weighed values", axes=v.axes)
    k_beta = ops.mul(k, column(beta), "weighed keys", axes=k.axes)
    q, k = viewed(q, keys), viewed(k, keys)
    k_beta, v_beta = _laid_out(k_beta, keys), _laid_out(v_beta, values)
    g = viewed(g, steps)
    mask = upper(tape)
    total = cumulated(g, steps)
    decay = ops.sub(column(total), row(total), "pairwise decays", axes=square)
    decay = masked(decay, square, mask)
    decay = exp(decay)
    system = ops.mul(ops.matmul(k_beta, k, square, "system"), decay, "decayed system", axes=square)
    intra = ops.mul(ops.matmul(q, k, square, "scores"), decay, "decayed scores", axes=square)
    decayed = ops.mul(k_beta, column(exp(total)), "decayed keys", axes=keys)
    new = solved(system, v_beta, "new values")
    reading = solved(system, decayed, "keys that read the state")
    state = tape.new("state", (B, N, H, VH), "fp32")
    out = tape.new("output of the delta rule", values, "fp32")
    q = ops.mul(q, column(exp(total)), "decayed queries", axes=keys)
    began = len(tape.nodes)
    left = exp(ops.sub(ops.narrow(total, (*heads, ("X", 1))), total, "decays left", axes=steps))
    k = ops.mul(k, column(left), "decayed keys", axes=keys)
    del left
    fading = exp(ops.narrow(total, heads))
    begun = len(tape.nodes)

    one, rows, block, kept = (B, N, inside, VH), (B, N, inside, H), (B, N, inside, other), state.axes
    for _ in range(n[1]):
        added = ops.narrow(new, one)
        fresh = ops.sub(added, ops.matmul(ops.narrow(reading, rows), state, one, "predicted values"), "new values")
        inter = ops.matmul(ops.narrow(q, rows), state, one, "output of the state")
        both = [ops.add(inter, ops.matmul(ops.narrow(intra, block), fresh, one, "output of the chunk"), "output")]
        out = filled(out, both.pop(), one)
        since = len(tape.nodes)
        faded = ops.mul(state, ops.narrow(fading, (B, N)), "decayed state", axes=kept)
        update = ops.matmul(ops.narrow(k, rows), fresh, kept, "update")
        state = ops.add(faded, update, "state")
        del added, faded, update
    # Nobody asks for the last one, with which its steps go.
    del state
    tape.forget(since)
    flat: Axes = (B, N, length, VH)
    outs = [ops.copy(out, flat, "output by tokens") if n[1] > 1 else out.view(flat)]
    del out
    result: Value = to(_by_tokens(ops.narrow(outs.pop(), (B, N, T, VH))), before)
    if n[1] == 1:
        # Nor for what only a later chunk would have taken.
        tape.forget(began, begun)
    return result


def transposed(x: Value) -> Value:
    """``x.transpose(1, 2)``: a view, whose gradient lies as its own axes do."""
    before = x.axes
    first, second = before[1:3]
    out = Value(x.storage, (before[0], second, first, *before[3:]), x.dtype)

    def back(g: Value) -> Grads:
        g.storage.by_heads = first[1] > 1 and second[1] > 1
        return (g.view(before),)

    x.tape.record((out,), (x,), back, ())
    return out


def relaid(x: Value) -> Value:
    """What is repeated or chosen from: its gradient is laid out anew, by tokens."""
    out = Value(x.storage, x.axes, x.dtype)

    def back(g: Value) -> Grads:
        g.storage.by_heads = False
        return (g,)

    x.tape.record((out,), (x,), back, ())
    return out


def _by_tokens(x: Value) -> Value:
    """``x.transpose(1, 2)`` back."""
    B, N, T, *rest = x.axes
    return x.view((B, T, N, *rest))


def normalised(x: Value) -> Value:
    """``l2norm``."""
    norm = ops.rsqrt(ops.shifted(total_of(ops.mul(x, x, "squares"), (*x.axes[:-1], ("X", 1)))))
    return ops.mul(x, norm, "normalised", axes=x.axes)


def total_of(x: Value, over: Axes) -> Value:
    """``x.sum(dim)``, of which ``over`` is left: its gradient is an expanded view."""
    x = ops.raised(x)
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("sum", over, dtype)
    tape.record((out,), (x,), lambda g: (Value(g.storage, axes, dtype),), ())
    return out


def column(x: Value) -> Value:
    """``x.unsqueeze(-1)``."""
    return viewed(x, (*x.axes, ("X", 1)))


def row(x: Value) -> Value:
    """``x.unsqueeze(-2)``."""
    return viewed(x, (*x.axes[:-1], ("X", 1), x.axes[-1]))


def viewed(x: Value, axes: Axes) -> Value:
    """``x.view(axes)``, where gradients come together: a view, into which nothing is added in place."""
    before = x.axes
    out = Value(x.storage, axes, x.dtype)

    def back(g: Value) -> Grads:
        g.storage.viewed = True
        return (g.view(before),)

    x.tape.record((out,), (x,), back, ())
    return out


def upper(tape: Tape) -> Value:
    """``torch.ones(64, 64).triu(1)``."""
    square: tuple[Axis, ...] = (("T", CHUNK), ("S", CHUNK))
    ones = tape.new("ones", square, "bool")
    found = tape.new("triangle", square, "bool")
    del ones
    return found


def _laid_out(x: Value, axes: Axes) -> Value:
    """Tokens in chunks: a view, whose gradient came out of a solver column by column and is laid out anew."""
    before, dtype, tape = x.axes, x.dtype, x.tape
    out = Value(x.storage, axes, dtype)

    def back(g: Value) -> Grads:
        return (tape.new("gradient laid out", before, dtype) if axes[2][1] > 1 else g.view(before),)

    tape.record((out,), (x,), back, ())
    return out


def solved(a: Value, b: Value, label: str) -> Value:
    """``torch.linalg.solve_triangular(a, b)``: keeps the system and its result."""
    tape, square, axes, dtype = a.tape, a.axes, b.axes, b.dtype
    out = tape.new(label, axes, dtype)
    grad_a, grad_b = needs_grad(a), needs_grad(b)

    def back(g: Value) -> Grads:
        gb = tape.new("gradient of right side", axes, dtype)
        if not grad_a:
            return None, gb
        product = tape.product("product of solutions", square, dtype)
        negated = tape.new("negated", square, dtype)
        del product
        ga = tape.new("gradient of system", square, dtype)
        del negated
        return ga, gb if grad_b else None

    tape.record((out,), (a, b), back, (a, out))
    return out
