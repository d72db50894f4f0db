"""Kimi's delta rule as transformers runs it without flash-linear-attention: in operations of torch, in fp32.

A decay of its own for every channel of a key makes the decays between a chunk's tokens as many as 64 times the keys.
The triangular system of a chunk is solved row by row, in place; a loop carries the state from chunk to chunk.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/kimi_linear/modeling_kimi_linear.py
(``chunk_kimi_delta_attention``, ``l2norm``, ``KimiLinearForgetGate``, ``KimiLinearRMSNormGated``).

Leaves out: partial sums of reductions over inner axes.
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.inplace import filled
from tonnage.arch.mixers.delta_rule import CHUNK, column, relaid, total_of, transposed, upper, viewed
from tonnage.arch.mixers.scan import cumulated, exp, masked, rate, to, widened
from tonnage.arch.tape import Grads, Parameter, Value
from tonnage.tensors import Axes


def delta_rule(q: Value, k: Value, v: Value, g: Value, beta: Value) -> Value:
    """``chunk_kimi_delta_attention`` with queries and keys normalised inside.

    Args:
        q, k, v: parts of something larger, axes ``B T N H``.
        g: decays, axes ``B T N H``, in fp32.
        beta: rates, axes ``B T N``.
    """
    tape, before = q.tape, q.dtype
    B, T, N, H = k.axes
    q, k, v, beta, g = [to(ops.copy(transposed(x)), "fp32") for x in (q, k, v, beta, g)]
    q = _normalised(q)
    k = _normalised(k)
    n, inside, other = ("X", -(-T[1] // CHUNK)), ("T", CHUNK), ("S", CHUNK)
    length = ("T", n[1] * CHUNK)
    flat, heads = (B, N, length, H), (B, N, n)
    keys, square, cube = (*heads, inside, H), (*heads, inside, other), (*heads, inside, other, H)
    q = ops.scaled(widened(q, flat), "scaled queries")
    k = widened(k, flat)
    v = widened(v, flat)
    g = widened(g, flat)
    beta = widened(beta, flat[:3])
    v_beta = ops.mul(v, column(beta), "weighed values", axes=flat)
    k_beta = ops.mul(k, column(beta), "weighed keys", axes=flat)
    q, k, v, g, k_beta, v_beta = [viewed(x, keys) for x in (q, k, v, g, k_beta, v_beta)]
    g = cumulated(g, keys)
    mask, strict = upper(tape), upper(tape)
    decay = exp(masked(ops.sub(_down(g), _across(g), "pairwise decays", axes=cube), cube, strict))
    system = ops.scaled(masked(_decayed(k_beta, k, decay, cube), square, mask), "negated system")
    for i in range(1, CHUNK):
        shorter, block = ("S", i), (*heads, ("T", i), other)
        row = ops.copy(ops.narrow(ops.narrow(system, (*heads, other)), (*heads, shorter)), label="row")
        sub = ops.copy(ops.narrow(ops.narrow(system, block), (*heads, ("T", i), shorter)), label="rows above")
        summed = total_of(ops.mul(column(row), sub, "product of rows", axes=sub.axes), (*heads, shorter))
        part = [ops.add(row, summed, "solved row")]
        del summed
        system = filled(system, part.pop(), (*heads, shorter))
    unit = tape.new("ones", square[3:], "fp32")
    system = ops.add(system, unit, "solved system")
    del unit
    v = ops.matmul(system, v_beta, keys, "new values")
    reading = ops.matmul(system, ops.mul(k_beta, exp(g), "decayed keys"), keys, "keys that read the state")
    # Both in the format that autocast gave the product.
    state = tape.new("state", (B, N, H, ("V", H[1])), v.dtype)
    out = tape.new("output of the delta rule", keys, v.dtype)
    mask = upper(tape)

    one, cut, kept, last = (B, N, inside, H), (B, N, inside, other, H), state.axes, (B, N, ("X", 1), H)
    for _ in range(n[1]):
        q_i, k_i, v_i, g_i = (ops.narrow(x, one) for x in (q, k, v, g))
        inter = ops.matmul(ops.mul(q_i, exp(g_i), "decayed queries"), state, one, "output of the state")
        intra = masked(_decayed(q_i, k_i, decay, cut), cut[:4], mask)
        predicted = ops.matmul(ops.narrow(reading, one), state, one, "predicted values")
        fresh = ops.sub(v_i, predicted, "new values")
        both = [ops.add(inter, ops.matmul(intra, fresh, one, "output of the chunk"), "output")]
        out = filled(out, both.pop(), one)
        since = len(tape.nodes)
        fading = column(exp(ops.narrow(g_i, (B, N, H))))
        faded = ops.mul(state, fading, "decayed state", axes=kept)
        del fading
        left = ops.mul(k_i, exp(ops.sub(ops.narrow(g_i, last), g_i, "decays left", axes=one)), "decayed keys")
        update = ops.matmul(left, fresh, kept, "update")
        del left
        state = ops.add(faded, update, "state")
        del faded, update
    # Nobody asks for the last one, with which its steps go.
    del state
    tape.forget(since)
    tokens = ops.narrow(viewed(out, flat), (B, N, T, H))
    result: Value = to(ops.copy(tokens.view((B, T, N, H)), label="output by tokens"), before)
    return result


def decays(x: Value, log: Parameter, bias: Parameter) -> Value:
    """``KimiLinearForgetGate`` behind its matrices: softplus by its parts, weighed by a number a head."""
    tape, axes = x.tape, x.axes
    g = ops.add(ops.cast(x, "fp32"), ops.weight_in(bias, "fp32"), "time step")
    g = relaid(g)
    weight = rate(log)
    above = tape.new("above 20", axes, "bool")
    grown = ops.unary(ops.shifted(exp(g)), "log")
    out = _chosen(above, g, relaid(grown))
    del grown, above
    return ops.mul(ops.scaled(weight, "decay"), out, "decays", axes=axes)


def norm_gated(x: Value, gate: Value, weight: Parameter) -> Value:
    """``KimiLinearRMSNormGated``: weights in fp32, a sigmoid for the gate."""
    before, axes = x.dtype, x.axes
    x = to(x, "fp32")
    variance = ops.mean(ops.power(x, "square"))
    x = ops.mul(x, ops.rsqrt(ops.shifted(variance)), "normalised", axes=axes)
    x = ops.mul(ops.weight_in(weight, "fp32"), x, "norm output", axes=axes)
    x = ops.mul(x, ops.unary(to(gate, "fp32"), "sigmoid", saves="output"), "gated", axes=axes)
    return ops.cast(x, before)


def _decayed(a: Value, b: Value, decay: Value, cube: Axes) -> Value:
    """Sums over channels of what each token takes from each, by the decays or by a chunk's part of them."""
    both = ops.mul(_down(a), _across(b), "products", axes=cube)
    both = ops.mul(both, decay if decay.axes == cube else ops.narrow(decay, cube), "decayed products", axes=cube)
    return total_of(both, cube[:-1])


def _down(x: Value) -> Value:
    """``x.unsqueeze(-2)``."""
    return viewed(x, (*x.axes[:-1], ("X", 1), x.axes[-1]))


def _across(x: Value) -> Value:
    """``x.unsqueeze(-3)``."""
    return viewed(x, (*x.axes[:-2], ("X", 1), *x.axes[-2:]))


def _normalised(x: Value) -> Value:
    """``l2norm`` by a root and a division."""
    norm = _root(ops.shifted(total_of(ops.mul(x, x, "squares"), (*x.axes[:-1], ("X", 1)))))
    tape, axes, small, dtype = x.tape, x.axes, norm.axes, x.dtype
    out = tape.new("normalised", axes, dtype)

    def back(g: Value) -> Grads:
        once = tape.new("quotient", axes, dtype)
        twice = tape.new("quotient of quotient", axes, dtype)
        negated = tape.new("negated", axes, dtype)
        gn = tape.new("gradient of divisor", axes, dtype)
        del once, twice, negated
        return tape.new("gradient of quotient", axes, dtype), ops.fitted(gn, small, dtype)

    tape.record((out,), (x, norm), back, (x, norm))
    return out


def _root(x: Value) -> Value:
    """``torch.sqrt``: keeps its result."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("root", axes, dtype)

    def back(g: Value) -> Grads:
        double = tape.new("twice the root", axes, dtype)
        grad = tape.new("gradient of root", axes, dtype)
        del double
        return (grad,)

    tape.record((out,), (x,), back, (out,))
    return out


def _chosen(where: Value, a: Value, b: Value) -> Value:
    """``torch.where``: keeps the choice; a zero stands for what was not chosen."""
    tape, axes, dtype = a.tape, a.axes, a.dtype
    out = tape.new("chosen", axes, dtype)

    def back(g: Value) -> Grads:
        grads = []
        for _ in range(2):
            zero = tape.new("zero", (), dtype)
            grads.append(tape.new("gradient of chosen", axes, dtype))
            del zero
        return grads[1], grads[0]

    tape.record((out,), (a, b), back, (where,))
    return out
