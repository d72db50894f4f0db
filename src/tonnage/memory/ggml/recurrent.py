"""llama.cpp's graphs of layers that keep a state of one size: Mamba, short convolutions, gated delta nets.

Reference: src/models/mamba-base.cpp, lfm2.cpp, delta-net-base.cpp, qwen3next.cpp and qwen35.cpp, and ``build_rs`` of
src/llama-graph.cpp, of ggml-org/llama.cpp v0.5.0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.mixers.delta import GatedDelta
from tonnage.arch.mixers.recurrent import Mamba1, Mamba2
from tonnage.arch.mixers.short_conv import ShortConv
from tonnage.arch.parts import KeyValues, Parts
from tonnage.memory.ggml.attention import cached
from tonnage.memory.ggml.graph import F32, I32, Node, held

if TYPE_CHECKING:
    from tonnage.memory.ggml.layers import Builder


def recurrent(g: Builder, b: Any, x: Node) -> Node | None:
    """The block's graph; None where it is not known."""
    if isinstance(b, Mamba1):
        return mamba1(g, b, x)
    if isinstance(b, Mamba2):
        return mamba2(g, b, x)
    if isinstance(b, ShortConv):
        return short_conv(g, b, x)
    if isinstance(b, GatedDelta):
        return delta(g, b, x)
    if isinstance(b, Parts):
        return gated_attention(g, b, x)
    return None


# The state.


def sizes(b: Any) -> tuple[int, int] | None:
    """Elements of the convolution's and of the recurrence's state of one sequence; None for what has none.

    llama.cpp keeps one input of the convolution less than its width.
    """
    if isinstance(b, Mamba1):
        return (b.C - 1) * b.I, b.Z * b.I
    if isinstance(b, Mamba2):
        return (b.C - 1) * b.channels, b.Z * b.inner
    if isinstance(b, ShortConv):
        return (b.C - 1) * b.D, 0
    if isinstance(b, GatedDelta):
        return (b.C - 1) * b.channels, b.H * b.N * b.VH
    return None


Rows = Callable[[Node, Node], Node]


def rows(states: Node, ids: Node) -> Node:
    """The states of the sequences at hand."""
    return states.pick(ids)


def states_of(g: Builder, store: Node, take: Rows = rows) -> Node:
    """The states that the batch's sequences start with: one is cleared, the rest moved where they stay."""
    s = g.b
    copy = g.given("state copies", s.slots, block=I32)
    if "main" not in g.views:
        g.views["main"] = copy.view((s.sequences, 1, 1, 1), line(copy, s.sequences))
        g.views["extra"] = copy.view((s.slots - s.sequences, 1, 1, 1), line(copy, s.slots - s.sequences))
    main, extra = g.views["main"], g.views["extra"]
    width = store.ne[0]
    flat = store.reshape(width, store.ne[1])
    zero = flat.view((width, 1, 1, 1), line(flat, width))
    g.graph.expand(Node("SCALE", zero.ne, zero.block, (zero,), nb=zero.nb, root=zero.base, home=store.home))
    out = g.graph.expand(take(flat, main))
    moved = flat.pick(extra)
    n = s.slots - s.sequences
    g.graph.expand(moved.copy_to(store.view((width, n, 1, 1), (4, store.nb[1], store.nb[1] * n, store.nb[1] * n))))
    return out


def line(t: Node, n: int) -> tuple[int, int, int, int]:
    """Strides of a view of one dimension."""
    size = t.block[0]
    return size, size * n, size * n, size * n


def store(g: Builder, width: int) -> Node:
    """A layer's states."""
    return held(g.cache(g.layer or 0), "fp32", width, g.b.slots, weight=False)


def convolved(g: Builder, x: Node, width: int, channels: int, *, silu: bool, bias: bool, name: str) -> Node:
    """A causal convolution over the state and ``x`` (channels first), whose last inputs go into the state."""
    s, kept = g.b, store(g, (width - 1) * channels)
    before = states_of(g, kept).reshape(width - 1, channels, s.sequences)
    return convolution(g, before, x, kept, width, silu=silu, bias=bias, name=name)


def convolution(
    g: Builder, before: Node, x: Node, kept: Node, width: int, *, silu: bool, bias: bool, name: str
) -> Node:
    """The convolution itself."""
    s, channels = g.b, before.ne[1]
    n = s.tokens // s.sequences
    whole = before.concat(x.transpose() if x.op != "TRANSPOSE" else x)
    last = whole.view((width - 1, channels, s.sequences, 1), whole.nb)
    row = kept.nb[1]
    there = kept.view((kept.ne[0], s.sequences, 1, 1), (4, row, row * s.sequences, row * s.sequences))
    g.graph.expand(last.copy_to(there))
    out = Node("SSM_CONV", (channels, n, s.sequences, 1), F32, (whole, g.small(name, width, channels)))
    if bias:
        out = out.like("ADD", g.small(name, channels))
    return out.like("UNARY") if silu else out


def scanned(g: Builder, states: Node, ids: Node, *src: Node) -> Node:
    """A selective scan: outputs of all tokens, and the new states behind them."""
    n = src[0].numel + states.ne[0] * states.ne[1] * states.ne[2] * ids.ne[0]
    return Node("SSM_SCAN", (n, 1, 1, 1), F32, (states, *src, ids))


def part(t: Node, *ne: int, nb: tuple[int, ...]) -> Node:
    """A view with strides of its own."""
    a, b, c, d = (*ne, 1, 1, 1)[:4]
    p, q, r = (*nb, nb[-1], nb[-1])[:3]
    return t.view((a, b, c, d), (4, p, q, r))


# Mamba.


def mamba1(g: Builder, b: Mamba1, x: Node) -> Node:
    """Mamba (arXiv:2312.00752) as ``build_mamba_layer``."""
    s = g.b
    S, n, I, Z = s.sequences, s.tokens // s.sequences, b.I, b.Z  # noqa: E741
    kept = store(g, (b.C - 1) * I)
    before = states_of(g, kept).reshape(b.C - 1, I, S)
    xz = g.weight("ssm_in", b.D, 2 * I).matmul(x.reshape(b.D, n, S))
    half = xz.view((I, n, S, 1), xz.nb)
    z = xz.view((I, n, S, 1), xz.nb)
    xs = convolution(g, before, half, kept, b.C, silu=True, bias=b.conv_bias, name="ssm_conv1d")
    db = g.weight("ssm_x", I, b.R + 2 * Z).matmul(xs)
    dt = db.view((b.R, n, S, 1), db.nb)
    B, C = (part(db, Z, 1, n, S, nb=(4 * Z, db.nb[1], db.nb[2])) for _ in "BC")
    if b.inner_norms:
        dt, B, C = (t.like("RMS_NORM").like("MUL", g.small("ssm_norm", t.ne[0])) for t in (dt, B, C))
    else:
        dt = dt.cont()
    dt = g.weight("ssm_dt", b.R, I).matmul(dt).like("ADD", g.small("ssm_dt", I))
    heads = xs.reshape(1, I, n, S)
    A = g.small("ssm_a", Z, I)
    kept = store(g, Z * I)
    y = states_of(g, kept, lambda st, ids: scanned(g, st.reshape(Z, 1, I, s.slots), ids, heads, dt, A, B, C))
    new = y.view((Z * I * S, 1, 1, 1), line(y, Z * I * S))
    g.graph.expand(new.copy_to(kept.view((Z * I * S, 1, 1, 1), line(kept, Z * I * S))))
    out = part(y, I, n, S, nb=(heads.nb[2], heads.nb[3]))
    out = z.cont().like("GLU", out.like("ADD", xs.like("MUL", g.small("ssm_d", I))))
    return g.weight("ssm_out", I, b.D).matmul(out).reshape(b.D, n * S)


def mamba2(g: Builder, b: Mamba2, x: Node) -> Node:
    """Mamba 2 (arXiv:2405.21060) as ``build_mamba2_layer``."""
    s = g.b
    S, n, I, N, H, Z = s.sequences, s.tokens // s.sequences, b.inner, b.N, b.H, b.Z  # noqa: E741
    kept = store(g, (b.C - 1) * b.channels)
    before = states_of(g, kept).reshape(b.C - 1, b.channels, S)
    packed = g.weight("ssm_in", b.D, I + b.channels + N).matmul(x)
    packed = packed.reshape(packed.ne[0], n, S)
    step = packed.nb
    z = part(packed, H, N, n, S, nb=(4 * H, step[1], step[2]))
    conv = convolution(g, before, packed.view((b.channels, n, S, 1), step), kept, b.C, silu=True, bias=b.conv_bias,
                       name="ssm_conv1d")  # fmt: skip
    heads = part(conv, H, N, n, S, nb=(4 * H, conv.nb[1], conv.nb[2]))
    B, C = (part(conv, Z, b.G, n, S, nb=(4 * Z, conv.nb[1], conv.nb[2])) for _ in "BC")
    dt = packed.view((N, n, S, 1), step).cont().like("ADD", g.small("ssm_dt", N))
    A = g.small("ssm_a", 1, N)
    kept = store(g, Z * I)
    y = states_of(g, kept, lambda st, ids: scanned(g, st.reshape(Z, H, N, s.slots), ids, heads, dt, A, B, C))
    row = 4 * Z * I
    new = part(y, Z * I, S, 1, nb=(row, row * S))
    g.graph.expand(new.copy_to(part(kept, Z * I, S, 1, nb=(kept.nb[1], row * s.slots))))
    out = part(y, H, N, n, S, nb=(heads.nb[1], N * heads.nb[1], n * N * heads.nb[1]))
    out = z.cont().like("GLU", out.like("ADD", heads.like("MUL", g.small("ssm_d", 1, N))))
    if b.normed:
        out = out.reshape(I // b.G, b.G, n, S).like("RMS_NORM").like("MUL", g.small("ssm_norm", I // b.G, b.G))
    return g.weight("ssm_out", I, b.D).matmul(out.reshape(I, n * S))


# Short convolutions.


def short_conv(g: Builder, b: ShortConv, x: Node) -> Node:
    """Two gates around a convolution (LFM2)."""
    s = g.b
    S, n = s.sequences, s.tokens // s.sequences
    packed = g.weight("shortconv.in_proj", b.D, 3 * b.D).matmul(x.reshape(b.D, n, S))
    first, gate, value = (packed.view((b.D, n, S, 1), packed.nb) for _ in range(3))
    mixed = first.like("MUL", value).transpose()
    y = convolved(g, mixed, b.C, b.D, silu=False, bias=False, name="shortconv.conv")
    return g.weight("shortconv.out_proj", b.D, b.D).matmul(gate.like("MUL", y)).reshape(b.D, n * S)


# Gated delta nets, and the attention that stands between them.


def delta(g: Builder, b: GatedDelta, x: Node) -> Node:
    """A gated delta net (arXiv:2412.06464) with its operation fused."""
    s = g.b
    S, n = s.sequences, s.tokens // s.sequences
    qkv = g.weight("attn_qkv", b.D, b.channels).matmul(x).reshape(b.channels, n, S)
    z = g.weight("attn_gate", b.D, b.N * b.VH).matmul(x)
    gate, beta = decays(g, b, x, S, n)
    mixed = convolved(g, qkv, b.C, b.channels, silu=True, bias=False, name="ssm_conv1d")
    kept = store(g, b.H * b.N * b.VH)
    state = states_of(g, kept).reshape(b.VH, b.VH, b.N, S)
    step = 4 * b.channels
    q, k = (part(mixed, b.H, b.K, n, S, nb=(4 * b.H, step, step * n)).like("RMS_NORM").like("SCALE") for _ in "qk")
    v = part(mixed, b.VH, b.N, n, S, nb=(4 * b.VH, step, step * n))
    if b.style == "packed" and b.K != b.N:
        q, k = (repeated(t, b, S, n) for t in (q, k))
    out = Node("GATED_DELTA_NET", (b.VH * b.N, n * S + b.VH * S, 1, 1), F32, (q, k, v, gate, beta, state))
    row = 4 * b.VH
    y = part(out, b.VH, b.N, n, S, nb=(row, row * b.N, row * b.N * n))
    new = part(out, b.VH, b.VH, b.N, S, nb=(row, row * b.VH, row * b.VH * b.N))
    wide = kept.ne[0]
    g.graph.expand(new.copy_to(kept.view((wide, S, 1, 1), (4, kept.nb[1], kept.nb[1] * S, kept.nb[1] * S))))
    normed = y.like("RMS_NORM").like("MUL", g.small("ssm_norm", b.VH))
    y = normed.like("MUL", z.reshape(b.VH, b.N, n, S).like("UNARY"))
    return g.weight("ssm_out", b.N * b.VH, b.D).matmul(y.reshape(b.N * b.VH, n, S)).reshape(b.D, n * S)


def decays(g: Builder, b: GatedDelta, x: Node, S: int, n: int) -> tuple[Node, Node]:
    """How much each head forgets, and how much it takes in."""
    if b.style == "packed":
        r = b.N // b.K
        both = g.weight("ssm_ba", b.D, 2 * b.N).matmul(x).reshape(2 * r, b.K, n, S)
        beta = both.view((r, b.K, n, S), both.nb).cont().like("UNARY")
        alpha = both.view((r, b.K, n, S), both.nb).cont(b.N, n, S)
    else:
        beta = g.weight("ssm_beta", b.D, b.N).matmul(x).reshape(1, b.N, n, S).like("UNARY")
        alpha = g.weight("ssm_alpha", b.D, b.N).matmul(x).reshape(b.N, n, S)
    gate = alpha.like("ADD", g.small("ssm_dt", b.N)).like("UNARY").like("MUL", g.small("ssm_a", b.N))
    if b.style == "packed":
        beta = beta.reshape(1, b.N, n, S)
    return gate.reshape(1, b.N, n, S), beta


def repeated(t: Node, b: GatedDelta, S: int, n: int) -> Node:
    """A query or key head for every value head."""
    r = b.N // b.K
    return t.reshape(b.H, 1, b.K, n * S).repeat(b.H, r, b.K, n * S).reshape(b.H, b.K * r, n, S)


def gated_attention(g: Builder, b: Parts, x: Node) -> Node | None:
    """Attention whose output is weighed by a gate that the query projection makes (Qwen3-Next, Qwen3.5)."""
    cache = next((p for p in b.parts if isinstance(p, KeyValues)), None)
    matrices = [p for p in b.parts if isinstance(p, Linear)]
    if b.what != "gated attention" or cache is None or len(matrices) != 4:
        return None
    D, H, K, T = x.ne[0], cache.H, cache.K, x.ne[1]
    N = next(n for letter, n in matrices[0].outs if letter == "N")
    norm = Norm("q_norm", (("H", H),))
    like = GroupedQuery(name="", D=D, N=N, K=K, H=H)
    both = g.linear("attn_q", D, 2 * N * H, x)
    k, v = g.linear("attn_k", D, K * H, x).reshape(H, K, T), g.linear("attn_v", D, K * H, x).reshape(H, K, T)
    heads = both.reshape(2 * H, N, T) if g.model.model_type == "qwen3_next" else both
    q, gate = (part(heads, H, N, T, 1, nb=(8 * H, 8 * H * N, 8 * H * N * T)) for _ in range(2))
    q = g.turned(g.norm(q, norm, "attn_q_norm"))
    k = g.turned(g.norm(k, norm, "attn_k_norm"))
    out = cached(g, like, q, k, v)
    out = out.like("MUL", gate.cont(N * H, T).like("UNARY"))
    return g.linear("attn_output", N * H, D, out)
