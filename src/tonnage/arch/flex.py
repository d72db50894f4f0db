"""Flex attention: one compiled kernel, and masks by blocks of tokens.

What its operation keeps are queries, keys, values, output and one number a row; the mask is eight tensors of block
numbers, which layers share. ``flex_attention`` itself is compiled wherever it is called, as transformers, torchtune and
torchtitan wrap it in ``torch.compile``; within a compiled model it is part of the graph.

The order of births and deaths is that of the code which inductor writes for a GPU: autograd hands the backward pass of
compiled code its gradients and what was saved to let go of.

References: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/flex_attention.py
(heads are repeated where their number is no power of two; the logarithm of the sums is handed back as well) and
masking_utils.py (``flex_attention_mask``);
https://github.com/pytorch/torchtune/blob/v0.6.1/torchtune/modules/attention_utils.py (``packed_block_causal_mask``) and
https://github.com/pytorch/torchtitan/blob/v0.2.2/torchtitan/models/attention.py (``FlexAttentionWrapper``,
``get_document_mask_mod``), which ask for the output alone;
https://github.com/pytorch/pytorch/blob/v2.13.0/torch/_higher_order_ops/flex_attention.py (FlexAttentionAutogradOp),
torch/_inductor/kernel/flex/flex_attention.py (delta, and gradients laid out as what they are of),
torch/_functorch/_aot_autograd/runtime_wrappers.py (``boxed_grads_call``; gradients are laid out as outputs are),
torch/nn/attention/flex_attention.py (``BlockMask``, ``_DEFAULT_SPARSE_BLOCK_SIZE``)

Leaves out: what the mask's functions capture beside the documents (an offset of 8 B); what making the mask takes for a
moment, before the pass.
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
Form = tuple[Axes, str]


def mask(tape: Tape, batch: int, queries: int, keys: int, *, documents: tuple[str, ...] = ()) -> tuple[Value, ...]:
    """A ``BlockMask``: numbers and indices of blocks that are shown in part, and of those that are in whole, of keys
    for each block of queries and the other way about; with numbers of each token in these formats, for ``documents``
    that lie one behind the other."""
    rows, columns = -(-queries // BLOCK), -(-keys // BLOCK)
    B = ("B", batch)

    def pair(a: int, b: int, of: str) -> tuple[Value, Value]:
        one: Axes = (B, ("X", 1), ("T", a))
        return (
            tape.new(f"numbers of blocks of {of}", one, "int32"),
            tape.new(f"blocks of {of}", (*one, ("S", b)), "int32"),
        )

    told = [tape.new("documents of tokens", (B, ("T", keys)), form) for form in documents]
    return (
        *told,
        *pair(rows, columns, "keys"), *pair(rows, columns, "keys, whole"),
        *pair(columns, rows, "queries"), *pair(columns, rows, "queries, whole"),
    )  # fmt: skip


def calls_bare(a: object) -> bool:
    """Whether a block calls the function itself (``bare_flex``), and not through transformers': that one repeats heads
    whose number is no power of two, and hands the sums back."""
    return bool(getattr(a, "bare_flex", False))


def flex(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    """Attention of ``q`` over ``k`` and ``v``; returns the heads' outputs, axes ``B T N H``."""
    tape = f.tape
    N = by_heads(q)[1]
    if calls_bare(a):
        out = _compiled(f, a, q, k, v, sums=False)[0]
        return tokens_first(out) if _heads_first(q) else out
    if N[1] & (N[1] - 1):
        k, v = repeated(k, N[1]), repeated(v, N[1])
    # In a compiled model nobody takes the sums, which are then no part of the graph.
    out, *sums = _compiled(f, a, q, k, v, sums=not tape.tracing)
    if sums:
        f.weights.append(ops.cast(sums[0], v.dtype))
    # The pair that is handed back holds both until the function returns.
    y = tokens_first(out) if _heads_first(q) else out
    del out, sums
    return y


def _heads_first(q: Value) -> bool:
    return q.axes[1] == by_heads(q)[1] and by_heads(q)[2][1] > 1


def _compiled(f: Forward, a: Attention, q: Value, k: Value, v: Value, *, sums: bool) -> tuple[Value, ...]:
    """The compiled function: the output, and with ``sums`` the logarithm of each row's."""
    tape, given = f.tape, (q, k, v)
    if tape.tracing:
        q, k, v = (ops.lowered(x) for x in given)
        given = (q, k, v)
    elif tape.autocast is not None:
        # Autocast's casts are part of the graph.
        q, k, v = (_lowered(tape, x) for x in given)
    B, N, T, _ = by_heads(q)
    heads_first, rows = _heads_first(q), (B, N, T)
    whole = (B, N, T, v.axes[3]) if heads_first else (B, T, N, v.axes[3])

    def make() -> tuple[Value, ...]:
        lse, most = tape.new("log-sum-exp", rows, "fp32"), tape.new("most of each row", rows, "fp32")
        return tape.new("attention output", whole, q.dtype), lse, most

    out, lse, natural = tape.results("flex", make)
    forms = tuple((x.axes, x.dtype) for x in (q, k, v))
    before = tuple(x.dtype for x in given)
    kept = [x.storage for x in (q, k, v, out, lse)]

    def back(grads: list[Value | None]) -> Grads:
        if tape.tracing:
            tape.scratch("row sums", 4 * B[1] * N[1] * T[1])
            return _gradients(tape, forms)
        # Nobody asks for a gradient of the sums: autograd hands zeros.
        zeros = tape.new("gradient of the sums", rows, "fp32") if sums else None
        if heads_first:
            # What comes in has its tokens first, and the graph its heads.
            grads[0] = tape.new("gradient of output, by heads", whole, forms[0][1])
        delta = tape.new("row sums", rows, "fp32")
        tape.rebound(kept[3])
        del zeros
        made = [*_gradients(tape, forms)]
        del delta
        grads.clear()
        for storage in kept:
            tape.rebound(storage)
        return _raised(tape, made, before)

    if any(needs_grad(x) for x in given):
        blocks = f.blocks[a.window]
        tape.record((out, natural) if sums else (out,), given, back, (q, k, v, out, lse, *blocks), custom=True)
        assert out.node is not None
        out.node.takes, out.node.frees = True, True
    # In base 2 inside of the kernel, in base e for the caller: written where each row's most was.
    return (out, natural) if sums else (out,)


def _lowered(tape: Tape, x: Value) -> Value:
    return x if x.dtype == tape.autocast else tape.new("cast within", x.axes, tape.autocast or x.dtype)


def _gradients(tape: Tape, forms: tuple[Form, ...]) -> tuple[Value, ...]:
    """Of queries, keys and values: the kernel's own result, made last, is that of the keys."""
    q, k, v = forms
    gq = tape.new("gradient of queries", *q)
    gv = tape.new("gradient of values", *v)
    return gq, tape.new("gradient of keys", *k), gv


def _raised(tape: Tape, grads: list[Value], before: tuple[str, ...]) -> Grads:
    """Gradients, handed over, in the formats of what was given: each in place of what it is cast from."""
    found: list[Value] = []
    for form in before:
        g = grads.pop(0)
        found.append(g if g.dtype == form else tape.new("cast gradient", g.axes, form))
    del g
    return tuple(found)
