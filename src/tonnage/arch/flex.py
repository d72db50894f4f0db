"""Flex attention as transformers calls it: one compiled kernel, and masks by blocks of tokens.

What its operation keeps are queries, keys, values, output and one number a row; the mask is eight tensors of block
numbers, which layers share. ``flex_attention`` itself is compiled wherever it is called: transformers wraps it in
``torch.compile``, and within a compiled model it is part of the graph.

References: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/flex_attention.py
(heads are repeated where their number is no power of two; the logarithm of the sums is handed back as well) and
masking_utils.py (``flex_attention_mask``);
https://github.com/pytorch/pytorch/blob/v2.13.0/torch/_higher_order_ops/flex_attention.py (FlexAttentionAutogradOp),
torch/_inductor/kernel/flex/flex_attention.py (delta, and gradients laid out as what they are of),
torch/nn/attention/flex_attention.py (``BlockMask``, ``_DEFAULT_SPARSE_BLOCK_SIZE``)

Leaves out: what the mask's functions capture (an offset of 8 B); what making the mask takes for a moment.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch import ops
from tonnage.arch.eager import Attention, by_heads, repeated, tokens_first
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Grads, Tape, Value, needs_grad
from tonnage.tensors import Axes

BLOCK: Final = 128
"""Tokens of a block."""


def mask(tape: Tape, batch: int, queries: int, keys: int) -> tuple[Value, ...]:
    """A ``BlockMask``: numbers and indices of blocks that are shown in part, and of those that are in whole, of keys
    for each block of queries and the other way about."""
    rows, columns = -(-queries // BLOCK), -(-keys // BLOCK)
    B = ("B", batch)

    def pair(a: int, b: int, of: str) -> tuple[Value, Value]:
        one: Axes = (B, ("X", 1), ("T", a))
        return (
            tape.new(f"numbers of blocks of {of}", one, "int32"),
            tape.new(f"blocks of {of}", (*one, ("S", b)), "int32"),
        )

    return (
        *pair(rows, columns, "keys"), *pair(rows, columns, "keys, whole"),
        *pair(columns, rows, "queries"), *pair(columns, rows, "queries, whole"),
    )  # fmt: skip


def flex(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    """Attention of ``q`` over ``k`` and ``v``; returns the heads' outputs, axes ``B T N H``."""
    tape = f.tape
    B, N, T, _ = by_heads(q)
    if N[1] & (N[1] - 1):
        k, v = repeated(k, N[1]), repeated(v, N[1])
    before = v.dtype
    q, k, v = ops.lowered(q), ops.lowered(k), ops.lowered(v)
    blocks = f.blocks[a.window]
    heads_first = q.axes[1] == N and T[1] > 1
    whole = (B, N, T, v.axes[3]) if heads_first else (B, T, N, v.axes[3])
    rows: Axes = (B, N, T)
    trained = needs_grad(q) or needs_grad(k) or needs_grad(v)

    def make() -> tuple[Value, ...]:
        out = tape.new("attention output", whole, q.dtype)
        return out, tape.new("log-sum-exp", rows, "fp32"), tape.new("most of each row", rows, "fp32")

    out, sums, most = tape.results("flex", make)
    q_axes, k_axes, v_axes, dtype = q.axes, k.axes, v.axes, q.dtype

    def back(g: Value) -> Grads:
        # Nobody asks for a gradient of the sums: autograd hands zeros, which the kernel's own row sums take up.
        zeros = tape.new("gradient of the sums", rows, "fp32")
        scaled = tape.new("gradient of the sums, scaled", rows, "fp32")
        delta = tape.new("row sums", rows, "fp32")
        del zeros
        gq = tape.new("gradient of queries", q_axes, dtype)
        gv = tape.new("gradient of values", v_axes, dtype)
        gk = tape.new("gradient of keys", k_axes, dtype)
        del scaled, delta
        return gq, gk, gv

    # In base 2 inside of the kernel, in base e for the caller.
    natural = tape.new("log-sum-exp, natural", rows, "fp32")
    if trained:
        tape.record((out,), (q, k, v), back, (q, k, v, out, sums, *blocks))
    del sums, most
    handed = natural if before == "fp32" else tape.new("log-sum-exp, cast", rows, before)
    f.weights.append(handed)
    y = tokens_first(out) if heads_first else out
    del natural
    return y
