"""What computes attention: each kernel's saved tensors and passing ones.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/transformers/ (sdp_utils.cpp,
attention.cpp, cuda/attention.cu) and https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/
integrations/sdpa_attention.py. ``flash_attention_2`` is flash-attn 2.8's own; left out of it is what transformers looks
for packed sequences with where the batch is one, 24 B a token for a moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from tonnage.arch import flash_attention, ops
from tonnage.arch.eager import Attention, batched, by_heads, eager, named, repeated, tokens_first
from tonnage.arch.forward import BESIDE, Forward
from tonnage.arch.tape import WIDTH, Grads, Tape, Value, needs_grad
from tonnage.errors import UnsupportedError
from tonnage.tensors import Axes, Axis, size

if TYPE_CHECKING:
    from tonnage.arch.texts import Texts


def attend(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    """Attention of ``q`` over ``k`` and ``v``: axes ``B T N H`` and ``B S K H``, or heads before tokens where the
    tensors lie so.

    Returns:
        The heads' outputs, axes ``B T N H``, contiguous.
    """
    if "core_attn" in f.again:
        # Imported late: most passes compute no module again.
        from tonnage.arch.again import checkpointed

        mask = _mask(f, a)
        # It holds the mask that it is called with.
        held = None if mask is None else mask.detached()

        def run(*given: Value, mask: Value | None = held) -> Value:
            y = _attend(f, a, *given)
            f.weights.clear()
            return y

        return checkpointed(run, q, k, v)
    return _attend(f, a, q, k, v)


def _attend(f: Forward, a: Attention, q: Value, k: Value, v: Value) -> Value:
    if f.kernel == "eager":
        f.ran.add("eager")
        return eager(f, a, q, k, v)
    if f.kernel == "flex":
        # Imported late: few passes run through it.
        from tonnage.arch.flex import flex

        f.ran.add("flex")
        return flex(f, a, q, k, v)
    masked = f.position is not None or (_mask(f, a) is not None)
    grouped = named(k, "NK")[1] != a.N
    unfit = not flash_attention.takes(k.axes[-1][1], v.axes[-1][1])
    if masked and f.kernel == "cudnn":
        raise UnsupportedError(
            "cuDNN's attention with a mask, which a window or a bias of positions brings, is not modelled",
            key="attention", value="cudnn", hint="--attention sdpa",
        )  # fmt: skip
    if f.position is not None and f.kernel in ("math", "unfused"):
        raise UnsupportedError(
            "the unfused path with a learned bias of positions is not modelled", key="attention", value="math",
            hint="--attention eager or sdpa",
        )  # fmt: skip
    # Falcon's one key is neither repeated nor announced as shared: only the unfused path broadcasts it.
    broadcast = a.eager in ("falcon", "falcon-alibi") and grouped
    kernel = f.kernel
    if kernel == "math" and grouped and (masked or unfit):
        # transformers repeats the heads, for want of which the memory-efficient kernel had been passed over.
        kernel = "efficient"
    elif kernel == "flash" and (masked or unfit):
        # A window shorter than the sequence brings a mask, which flash attention does not take.
        kernel = "efficient"
    if broadcast or kernel in ("math", "unfused"):
        f.ran.add("math")
        if kernel == "unfused" and (masked or unfit):
            k, v = repeated(k, a.N), repeated(v, a.N)
        return _math(f, a, q, k, v, broadcast=broadcast)
    f.ran.add(kernel)
    return _fused(f, a, q, k, v, kernel)


def _math(f: Forward, a: Attention, q: Value, k: Value, v: Value, *, broadcast: bool = False) -> Value:
    """The unfused path of ``scaled_dot_product_attention``: in fp32 whatever the tensors' format."""
    q, k, v = ops.lowered(q), ops.lowered(k), ops.lowered(v)
    tape, before = f.tape, q.dtype
    B, N, T, _ = by_heads(q)
    S = ("S", named(k, "TS")[1])
    mask = _mask(f, a)
    bias = None if mask is None or mask.dtype == before else tape.new("attention bias", (B, *mask.axes[1:]), before)
    wide = ops.cast(q, "fp32"), ops.cast(k, "fp32"), ops.cast(v, "fp32")
    queries, keys, values = ops.scaled(wide[0], "scaled queries"), wide[1], wide[2]
    if mask is None and a.causal and T[1] > 1:
        bias = tape.new("attention bias", (T, S), "fp32")
    if not broadcast:
        keys, values = _interleaved(keys, N), _interleaved(values, N)
    weights = ops.matmul(
        batched(queries), batched(repeated(ops.scaled(keys, "scaled keys"), N[1])), (B, N, T, S), "scores"
    )
    weights = _safe_softmax(weights)
    weights = ops.dropout(weights, a.dropout, f.training)
    # The weights are cast back as well, and let go of with the pair that they are returned in.
    returned = None if before == "fp32" else tape.new("weights, cast back", (B, N, T, S), before)
    out = ops.matmul(weights, batched(repeated(values, N[1])), (B, N, T, values.axes[3]), "attention output")
    out = ops.cast(out, before)
    del wide, queries, keys, values, weights, bias, returned
    return tokens_first(out)


def _safe_softmax(x: Value, label: str = "attention weights") -> Value:
    """``torch._safe_softmax``: as ``softmax``, with rows that are all hidden set to zero in a second tensor."""
    tape, axes, form = x.tape, x.axes, x.dtype
    plain = tape.new("softmax", axes, form)
    hidden = tape.new("hidden scores", axes, "bool")
    (out,) = tape.results("softmax", lambda: (tape.new(label, axes, form),))
    del plain, hidden
    tape.record((out,), (x,), ops.softmax_back(tape, axes, form, form, label), (out,))
    return out


def _interleaved(x: Value, N: Axis) -> Value:
    """``repeat_interleave`` of the heads: a copy, of a single one as well."""
    axes = (x.axes[0], N, named(x, "TS"), x.axes[-1])
    return x if named(x, "NK")[1] == N[1] else ops.copy(x, axes, "repeated heads")


def _fused(f: Forward, a: Attention, q: Value, k: Value, v: Value, kernel: str) -> Value:
    """Flash, memory-efficient and cuDNN attention: queries, keys, values, the output and one number a row are kept."""
    tape, mask = f.tape, _mask(f, a)
    B, N, T, _ = by_heads(q)
    if f.position is not None:
        # Imported late: most models turn queries and keys instead.
        from tonnage.arch.relative import Biased, additive, aligned

        mask = additive(f, cast(Biased, a), mask, (T, ("S", named(k, "TS")[1])))
    # One new token: the queries that share a head are its tokens, so that nothing is repeated.
    packed = kernel == "efficient" and T[1] == 1 and named(k, "NK")[1] != N[1]
    if kernel == "efficient" and not packed:
        k, v = repeated(k, N[1]), repeated(v, N[1])
    # Heads are repeated by the calling code, before autocast casts.
    q, k, v = ops.lowered(q), ops.lowered(k), ops.lowered(v)
    bias: Value | None = None
    if f.position is not None and mask is not None:
        bias = aligned(ops.lowered(mask), (B, N, T, mask.axes[-1]))
    elif mask is not None:
        bias = _bias(tape, mask, B, q.dtype)
    texts = f.texts if kernel == "flash_attention_2" and f.texts is not None and f.texts.separate(B[1]) else None
    if texts is not None and not texts.viewed:
        # Batch and tokens are one axis to its kernels.
        q, k, v = _tokens_first(q), _tokens_first(k), _tokens_first(v)
    # The output lies as the queries do, but for the memory-efficient kernel.
    heads_first = q.axes[1] == N and kernel != "efficient" and T[1] > 1
    whole = (B, N, T, v.axes[3]) if heads_first else (B, T, N, v.axes[3])
    trained = needs_grad(q) or needs_grad(k) or needs_grad(v)
    # The memory-efficient kernel makes it for a backward pass only, be it one that runs the forward pass again first.
    again = tape.grad and not tape.recording
    rows = T if kernel != "efficient" else ("T", -(-T[1] // 32) * 32 if trained or again else 0)

    def make() -> tuple[Value, ...]:
        out = tape.new("attention output", whole, q.dtype)
        lse = tape.new("log-sum-exp", (B, N, rows), "fp32")
        seed = tape.new("random state", (("X", 1 if kernel in ("efficient", "cudnn") else 2),), "int64")
        if kernel == "flash_attention_2":
            return out, lse, seed
        return out, lse, seed, tape.new("random offset", (("X", 1),), "int64")

    bounds = () if texts is None else (_bounds(f, texts),)
    out, *rest = tape.results(kernel, make)
    learned = bias if needs_grad(bias) else None
    saved = (q, k, v, out, *rest, *(() if bias is None else (bias,)), *bounds)
    del bounds
    q_axes, k_axes, v_axes, dtype = q.axes, k.axes, v.axes, q.dtype
    flat = (B, T, N, q_axes[3]), (B, named(k, "TS"), named(k, "NK"), k_axes[3])

    def back(g: Value) -> Grads:
        gq = tape.new("gradient of queries", q_axes, dtype)
        gk = tape.new("gradient of keys", k_axes, dtype)
        gv = tape.new("gradient of values", v_axes, dtype)
        if kernel in ("flash", "flash_attention_2"):
            s = _shape(*flat, WIDTH[dtype])
            s = s if texts is None else s.but(batch=texts.count, packed=True)
            own = flash_attention.row_sums(s)
            # flash-attn's own operation returns them.
            sums = tape.new("row sums", (("X", own // 4),), "fp32") if kernel == "flash_attention_2" else None
            tape.scratch("flash backward", *(() if sums is not None else (own,)), *flash_attention.second(s))
            del sums
        return gq, gk, gv, None if wide is None else tape.new("gradient of position bias", wide, dtype)

    # The gradient's rows are padded to sixteen.
    wide = None if learned is None else (*learned.axes[:-1], ("S", -(-learned.axes[-1][1] // 16) * 16))
    if trained:
        tape.record((out,), (q, k, v, learned), back, saved)
    del learned, bias
    if packed:
        return ops.copy(out, label="attention output, unpacked")
    return tokens_first(out) if heads_first else out


def _tokens_first(x: Value) -> Value:
    """``x.contiguous()`` of what lies heads first, or is a part of a wider tensor."""
    B, T, N, H = x.axes[0], named(x, "TS"), named(x, "NK"), x.axes[-1]
    if x.axes[1] != N:
        whole = size(x.storage.axes) == size(x.axes)
        return x if whole else ops.copy(x, label="tokens first")
    return x.view((B, T, N, H)) if 1 in (T[1], N[1]) else ops.copy(x, (B, T, N, H), "tokens first")


def _bounds(f: Forward, texts: Texts) -> Value:
    """Where texts begin, as flash-attn's kernels are told: by the batch, or found in this layer."""
    return f.bounds if f.bounds is not None else f.tape.new("bounds of texts", texts.bounds, "int32")


def _mask(f: Forward, a: Attention) -> Value | None:
    """What hides tokens from a block; the encoder's are never hidden from the decoder."""
    if f.seen is not None:
        return f.seen
    return f.masks.get(BESIDE if getattr(a, "cross", False) else a.window)


def _bias(tape: Tape, mask: Value, B: Axis, dtype: str) -> Value:
    """The mask as the memory-efficient kernel takes it: numbers, its rows padded to eight.

    A boolean mask becomes numbers in every layer anew. torch v2.13.0 aten/src/ATen/native/transformers/attention.cpp,
    preprocess_mask.
    """
    *rest, (letter, keys) = mask.axes
    padded = -(-keys // 8) * 8
    if mask.dtype == dtype and padded == keys:
        return mask
    own = mask if mask.dtype == dtype else tape.new("attention bias", (B, *mask.axes[1:]), dtype)
    if padded == keys:
        return own
    return tape.new("attention bias, padded", (own.axes[0], *rest[1:], (letter, padded)), dtype)


def _shape(q: Axes, k: Axes, width: int) -> flash_attention.Shape:
    """Of a call, from the axes of its queries and keys: batch, tokens, heads, width."""
    (_, B), (_, T), (_, N), (_, H) = q
    return flash_attention.Shape(batch=B, tokens=T, keys=k[1][1], heads=N, key_heads=k[2][1], width=H, element=width)
