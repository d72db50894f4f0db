"""llama.cpp's graphs of attention: projections, rotation, the cache, and attention over all of its cells.

Reference: src/llama-graph.cpp ``build_qkv``, ``build_attn`` and ``build_attn_mha``, src/llama-kv-cache.cpp (``get_k``,
``get_v``, ``cpy_k``, ``cpy_v``) and src/models/deepseek2.cpp of ggml-org/llama.cpp v0.5.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tonnage.arch.attention import GroupedQuery, Latent
from tonnage.arch.layers import HeadNorms, Norm
from tonnage.memory.ggml.graph import F16, F32, I64, Node, Unmodelled, held, unit

if TYPE_CHECKING:
    from tonnage.memory.ggml.layers import Builder


def attention(g: Builder, b: GroupedQuery, x: Node) -> Node:
    """Projections, positions, the cache, attention, output."""
    if b.position_bias not in (None, "alibi") or b.chunked or b.cross or b.o_norm is not None:
        raise Unmodelled("attention of its own kind")
    q, k, v = projected(g, b, x)
    if b.rotary is not None or (g.model.model_type == "exaone4" and g.b.window_cells is None):
        q, k = g.turned(q), g.turned(k)
    if b.norm_after_rotary:
        q, k = head_norm(g, b, q, b.q_norm, "attn_q_norm"), head_norm(g, b, k, b.k_norm, "attn_k_norm")
    if g.habits.scaled_queries:
        q = q.like("SCALE")
    if b.position_scaled:
        q = q.like("MUL", g.given("scales of positions", 1, 1, g.b.tokens))
    x = cached(g, b, q, k, v)
    return g.linear("attn_output", b.N * b.value_width, b.D, x, bias=b.o_bias)


def projected(g: Builder, b: GroupedQuery, x: Node) -> tuple[Node, Node, Node]:
    """Queries, keys and values by heads."""
    T = x.ne[1]
    widths = (b.N * b.H, b.K * b.H, b.K * b.value_width)
    if b.fused is not None:
        packed = g.linear("attn_qkv", b.D, sum(widths), x, bias=b.bias)
        if b.clip:
            packed = packed.like("CLAMP")
        step = packed.nb[1]
        heads = [packed.view((w // n, n, T, 1), (4, 4 * (w // n), step, step * T))
                 for w, n in zip(widths, (b.N, b.K, b.K), strict=True)]  # fmt: skip
        return normed_heads(g, b, *heads)
    whole = isinstance(b.q_norm, Norm) and len(b.q_norm.axes) == 2 and b.q_norm.style != "layer-cohere"
    flat = [
        g.linear(f"attn_{n}", b.D, w, x, bias=b.bias and (n != "k" or b.key_bias))
        for n, w in zip("qkv", widths, strict=True)
    ]
    if b.clip:
        flat = [t.like("CLAMP") for t in flat]
    if whole and b.q_norm is not None and b.k_norm is not None:
        flat = [g.norm(flat[0], b.q_norm, "attn_q_norm"), g.norm(flat[1], b.k_norm, "attn_k_norm"), flat[2]]
    cut = [t.reshape(w // n, n, T) for t, w, n in zip(flat, widths, (b.N, b.K, b.K), strict=True)]
    return (cut[0], cut[1], cut[2]) if whole else normed_heads(g, b, *cut)


def normed_heads(g: Builder, b: GroupedQuery, q: Node, k: Node, v: Node) -> tuple[Node, Node, Node]:
    """Norms of single heads before the rotation."""
    if b.norm_after_rotary:
        return q, k, v
    return head_norm(g, b, q, b.q_norm, "attn_q_norm"), head_norm(g, b, k, b.k_norm, "attn_k_norm"), v


def head_norm(g: Builder, b: GroupedQuery, x: Node, norm: Norm | HeadNorms | None, name: str) -> Node:
    """A norm over the elements of each head."""
    return x if norm is None else g.norm(x, norm, name)


def rotated(g: Builder, x: Node, name: str, width: int, form: str, of: str = "") -> Node:
    """Multiplied by a Hadamard matrix, as goes into a quantized cache; each cache has a matrix of its own."""
    if unit(form)[1] == 1 or width % 64:
        return x
    n = 64
    while name == "k" and width % (2 * n) == 0:
        n *= 2
    matrix = g.given(f"rotation {name}{of}", n, n)
    flat = x.reshape(n, x.numel // n) if x.contiguous else x.cont(n, x.numel // n)
    return matrix.matmul(flat).reshape(*x.ne)


def cached(g: Builder, b: GroupedQuery, q: Node, k: Node, v: Node) -> Node:
    """Keys and values into the cache, and attention over all of it."""
    s, T = g.b, g.b.tokens
    windowed = b.window is not None and s.window_cells is not None
    cells = s.window_cells if windowed and s.window_cells is not None else s.cells
    of = " (window)" if windowed else ""
    q, k = rotated(g, q, "k", b.H, s.k, of), rotated(g, k, "k", b.H, s.k, of)
    v = rotated(g, v, "v", b.value_width, s.v, of)
    for t in (q, k, v) if s.window_cells is not None else (q, v, k):
        g.graph.expand(t)
    home = g.cache(g.layer or 0)
    keys = held(home, s.k, b.K * b.H, cells, s.streams, weight=False)
    values = held(home, s.v, b.K * b.value_width, cells, s.streams, weight=False)
    k_rows, v_rows = g.given(f"key cells{of}", T, block=I64), value_cells(g, of)
    g.graph.expand(merged(g, keys).store(flat_rows(k), k_rows))
    g.graph.expand(stored_values(g, values, v, v_rows))
    x = attend(g, b, q, heads_of(g, keys, b.H, b.K, cells), values_of(g, values, b, cells), of, cells)
    return rotated(g, x, "v", b.value_width, s.v, of)


def value_cells(g: Builder, of: str) -> Node:
    """Where values go: one cell a token, or one of each element where they lie transposed."""
    T = g.b.tokens
    return g.given(f"value cells{of}", T if g.b.flash else T * g.values, block=I64)


def merged(g: Builder, cache: Node) -> Node:
    """The cache with its streams behind one another."""
    if g.b.streams == 1:
        return cache
    return cache.reshape(cache.ne[0], cache.ne[1] * cache.ne[2])


def stored_values(g: Builder, values: Node, v: Node, rows: Node) -> Node:
    """Values into the cache; element by element where they lie transposed."""
    if g.b.flash:
        return merged(g, values).store(flat_rows(v), rows)
    width, T = v.ne[0] * v.ne[1], v.ne[2]
    flat = v.reshape(width, T) if v.nb[2] == 4 * width else v.cont(width, T)
    if width < values.ne[0]:
        flat = flat.padded(values.ne[0], T)
    return values.reshape(1, values.numel).store(flat.reshape(1, flat.numel), rows)


def heads_of(g: Builder, cache: Node, width: int, heads: int, cells: int) -> Node:
    """The cache by heads."""
    size, elements = cache.block
    row = size * width // elements
    whole = cache.nb[1]
    return cache.view((width, heads, cells, g.b.streams), (size, row, whole, whole * cells))


def values_of(g: Builder, cache: Node, b: GroupedQuery, cells: int) -> Node:
    """Values by heads, as they lie."""
    if g.b.flash:
        return heads_of(g, cache, b.value_width, b.K, cells)
    size = cache.block[0]
    return cache.view(
        (cells, b.K, b.value_width, g.b.streams),
        (size, size * cells * b.value_width, size * cells, size * cells * cache.ne[0]),
    )


def seen(g: Builder, of: str, cells: int) -> Node:
    """Which token sees which cell."""
    s = g.b
    return g.given(f"mask{of}", cells, s.tokens // s.streams, 1, s.streams, block=F16 if s.flash else F32)


def attend(g: Builder, b: GroupedQuery | Latent, q: Node, k: Node, v: Node, of: str, cells: int) -> Node:
    """Scores, softmax and their product with the values, as one operation or one by one."""
    s = g.b
    ne, nb = q.ne, q.nb
    # Streams divide the tokens.
    q = q.view((ne[0], ne[1], ne[2] // s.streams, s.streams), (nb[0], nb[1], nb[2], nb[3] // s.streams))
    q, k, v = q.permute(0, 2, 1, 3), k.permute(0, 2, 1, 3), v.permute(0, 2, 1, 3)
    mask, sinks = seen(g, of, cells), (g.small("attn_sinks", ne[1]),) if b.sinks else ()
    if s.flash:
        # The operation takes no fp32.
        k, v = (t.cast(F16) if t.block == F32 else t for t in (k, v))
        out = Node("FLASH_ATTN_EXT", (v.ne[0], q.ne[2], q.ne[1], q.ne[3]), F32, (q, k, v, mask, *sinks))
        return g.graph.expand(flash_out(g, b, out))
    scores = k.matmul(q)
    if b.softcap:
        scores = scores.like("SCALE").like("UNARY").like("SCALE")
    scores = scores.like("SOFT_MAX", mask, *sinks)
    if isinstance(b, Latent):
        v = v.transpose().cont()
    out = v.matmul(scores)
    if isinstance(b, Latent):
        out = g.weight("attn_v_b", b.kv_rank, b.VH, b.N).matmul(out)
    out = out.permute(0, 2, 1, 3)
    out = out.cont(out.ne[0] * out.ne[1], out.ne[2] * out.ne[3])
    if g.pinned is not None:
        out.where = g.pinned
    return g.graph.expand(out)


def flash_out(g: Builder, b: GroupedQuery | Latent, out: Node) -> Node:
    """Heads side by side."""
    if isinstance(b, Latent):
        expand = g.weight("attn_v_b", b.kv_rank, b.VH, b.N)
        out = expand.matmul(out.permute(0, 2, 1, 3)).permute(0, 2, 1, 3).cont()
    return out.reshape(out.ne[0] * out.ne[1], out.ne[2] * out.ne[3])


def latent(g: Builder, b: Latent, x: Node) -> Node:
    """Latent attention: queries meet the latent itself, which stands for keys and values."""
    if b.window is not None or b.queries is not None or b.sinks or b.softcap:
        raise Unmodelled("latent attention of its own kind")
    T, wide = x.ne[1], b.nope + b.rope
    q = x
    if b.q_rank is not None:
        q = g.weight("attn_q_a", b.D, b.q_rank).matmul(q).like("RMS_NORM")
        q = q.like("MUL", g.small("attn_q_a_norm", b.q_rank))
    name = "attn_q" if b.q_rank is None else "attn_q_b"
    q = g.weight(name, b.q_rank or b.D, b.N * wide).matmul(q).reshape(wide, b.N, T)
    both = g.weight("attn_kv_a_mqa", b.D, b.kv_rank + b.rope).matmul(x)
    step = both.nb[1]
    kv = both.view((b.kv_rank, T, 1, 1), (4, step, step * T, step * T)).like("RMS_NORM")
    kv = kv.like("MUL", g.small("attn_kv_a_norm", b.kv_rank))
    k_pe = both.view((b.rope, 1, T, 1), (4, step, step, step * T)).like("ROPE", g.positions)
    q_pe = q.view((b.rope, b.N, T, 1), q.nb).like("ROPE", g.positions)
    q_nope = q.view((b.nope, b.N, T, 1), q.nb).permute(0, 2, 1, 3)
    absorbed = g.weight("attn_k_b", b.nope, b.kv_rank, b.N).matmul(q_nope).permute(0, 2, 1, 3)
    kv = kv.reshape(b.kv_rank, 1, T)
    return latent_cached(g, b, absorbed.concat(q_pe), kv.concat(k_pe), kv)


def latent_cached(g: Builder, b: Latent, q: Node, k: Node, v: Node) -> Node:
    """The latent into the cache, and attention over it."""
    s = g.b
    for t in (q, v, k):
        g.graph.expand(t)
    width = b.kv_rank + b.rope
    keys = held(g.cache(g.layer or 0), s.k, width, s.cells, s.streams, weight=False)
    g.graph.expand(merged(g, keys).store(flat_rows(k), g.given("key cells", s.tokens, block=I64)))
    by_heads = heads_of(g, keys, width, 1, s.cells)
    values = by_heads.view((b.kv_rank, *by_heads.ne[1:]), by_heads.nb)
    x = attend(g, b, q, by_heads, values, "", s.cells)
    return g.weight("attn_output", b.N * b.VH, b.D).matmul(x)


def flat_rows(x: Node) -> Node:
    """Heads side by side: one row a token."""
    return x.view((x.ne[0] * x.ne[1], x.ne[2], 1, 1), (x.nb[0], x.nb[2], x.nb[2] * x.ne[2], x.nb[2] * x.ne[2]))
