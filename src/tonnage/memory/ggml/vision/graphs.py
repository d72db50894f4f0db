"""The graph of each type of projector: its encoder, and what makes a model's tokens of patches.

Reference: tools/mtmd/models/siglip.cpp, llava.cpp, qwen2vl.cpp, qwen3vl.cpp, pixtral.cpp, internvl.cpp, minicpmv.cpp of
ggml-org/llama.cpp v0.5.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tonnage.memory.ggml.graph import F32, I32, Graph, Node, leaf
from tonnage.memory.ggml.vision.encoder import BLOCK, Encoder
from tonnage.memory.ggml.vision.projector import Projector

RESAMPLED: Final = 128
"""Elements of a head of MiniCPM-V's resampler."""
LARGE: Final = (3200, 45)
"""Width and layers of InternViT-6B, whose norms do not subtract the mean."""


def graph(p: Projector, size: tuple[int, int], home: int, *, flash: bool, count: int = 1) -> Graph:
    """What runs for ``count`` pictures of one size.

    Args:
        p: the projector.
        size: width and height of a picture. [pixel]
        home: the device of its weights.
        flash: attention is one operation.
        count: pictures that run together.
    """
    e = Encoder(p, *size, count, home, flash=flash)
    e.graph.expand(GRAPHS[p.kind](e))
    return e.graph


def siglip(e: Encoder) -> Node:
    """Gemma 3: patches pooled to a smaller square."""
    p, side = e.p, e.across
    x = e.layers(e.patched().like("ADD", e.weight("v.position_embd.weight")), e.patches)
    x = x.transpose().cont(side, side, p.width, 1)
    x = Node("POOL_2D", (side // p.merge, side // p.merge, p.width, 1), F32, (x,))
    x = x.reshape(x.ne[0] * x.ne[0], p.width, 1).transpose().cont()
    x = x.like("RMS_NORM").like("MUL", e.weight("mm.soft_emb_norm.weight"))
    return e.weight("mm.input_projection.weight").transpose().cont().matmul(x)


def idefics(e: Encoder) -> Node:
    """Idefics 3, SmolVLM: neighbouring patches beside each other, and one matrix."""
    x = e.layers(e.patched().like("ADD", e.weight("v.position_embd.weight")), e.patches)
    return e.weight("mm.model.fc.weight").matmul(shuffled(e, x, e.p.merge))


def shuffled(e: Encoder, x: Node, by: int) -> Node:
    """``by x by`` neighbouring patches as one row (``build_patch_merge_permute``)."""
    D, across, down = x.ne[0], e.across, e.down
    x = x.reshape(D, across, down)
    if across % by or down % by:
        across, down = -(-across // by) * by, -(-down // by) * by
        x = x.padded(D, across, down)
    x = x.reshape(D * by, across // by, down).permute(0, 2, 1, 3)
    x = x.cont(D * by * by, down // by, across // by).permute(0, 2, 1, 3)
    return x.cont(x.ne[0], x.ne[1] * x.ne[2])


def llava(e: Encoder) -> Node:
    """LLaVA: CLIP without its last layer, then two matrices."""
    p = e.p
    classed = p.has("v.class_embd")
    count = e.patches + classed
    x = e.patched()
    if classed:
        x = x.concat(e.weight("v.class_embd"), 1)
    x = x.like("ADD", e.weight("v.position_embd.weight").pick(leaf(count, block=I32)))
    if p.has("v.pre_ln.weight"):
        x = e.norm(x, "v.pre_ln")
    kept: list[Node] = []
    depth = max(p.features) if p.features else p.layers - 1
    for i in range(depth):
        if i in p.features:
            kept.append(x)
        block = BLOCK.format(i)
        q, k, v = (t.reshape(p.head, p.heads, count) for t in _three(e, e.norm(x, f"{block}ln1"), block))
        x = e.attend(q, k, v, f"{block}attn_out").like("ADD", x)
        x = x.like("ADD", e.fed(e.norm(x, f"{block}ln2"), block))
    if p.has("v.post_ln.weight"):
        x = e.norm(x, "v.post_ln")
    if depth in p.features:
        kept.append(x)
    for i, one in enumerate(kept):
        x = one if i == 0 else x.concat(one)
    x = x.reshape(x.ne[0], x.ne[1]).pick(leaf(e.patches, block=I32))
    x = e.linear("mm.0", x)
    if not p.has("mm.3.weight"):
        x = x.like("UNARY")
        return e.linear("mm.2", x) if p.has("mm.2.weight") else x
    return e.norm(e.linear("mm.3", e.norm(x, "mm.1").like("UNARY")), "mm.4")


def _three(e: Encoder, x: Node, block: str) -> tuple[Node, Node, Node]:
    q, k, v = (e.linear(f"{block}attn_{name}", x) for name in "qkv")
    return q, k, v


def frames(e: Encoder) -> Node:
    """Qwen: the sum of two convolutions, one for each frame, patches of a 2 x 2 square one after the other."""
    x = e.raw()
    x = e.convolved("v.patch_embd.weight", x).like("ADD", e.convolved("v.patch_embd.weight.1", x))
    return squares(e, x.permute(1, 2, 0, 3))


def squares(e: Encoder, x: Node) -> Node:
    """Rows of patches as rows of 2 x 2 squares."""
    D, across, down = e.p.width, e.across, e.down
    x = x.cont(2 * D, across // 2, down, 1).reshape(2 * D, across // 2, 2, down // 2)
    return x.permute(0, 2, 1, 3).cont(D, e.patches, 1)


def qwen2(e: Encoder) -> Node:
    """Qwen2-VL and, with windows, Qwen2.5-VL."""
    p, n = e.p, e.patches
    e.rms = p.kind == "qwen2.5vl_merger"
    x = frames(e)
    places = leaf(4 * n, block=I32)
    if p.has("v.pre_ln.weight"):
        x = e.norm(x, "v.pre_ln", rms=e.rms)
    mask: Node | None = None
    if p.window:
        order, mask = leaf(n // 4, block=I32), leaf(n, n)
        if e.flash:
            mask = mask.cast((2, 1))
        x = x.reshape(4 * p.width, n // 4).pick(order).reshape(p.width, n, 1)
    for i in range(p.layers):
        block = BLOCK.format(i)
        q, k, v = _three(e, e.norm(x, f"{block}ln1", rms=e.rms), block)
        q, k, v = (t.reshape(p.head, p.heads, n) for t in (q, k, v))
        whole = not p.window or (i + 1) % p.window == 0
        y = e.attend(q.like("ROPE", places), k.like("ROPE", places), v, f"{block}attn_out", None if whole else mask)
        x = y.like("ADD", x)
        x = x.like("ADD", e.fed(e.norm(x, f"{block}ln2", rms=e.rms), block))
    if p.has("v.post_ln.weight"):
        x = e.norm(x, "v.post_ln", rms=e.rms)
    x = e.feed(x.reshape(4 * p.width, n // 4, 1), "mm.0", "mm.2")
    if p.window:
        x = x.reshape(x.ne[0], n // 4).pick(leaf(n // 4, block=I32)).reshape(x.ne[0], n // 4, 1)
    return x


def qwen3(e: Encoder) -> Node:
    """Qwen3-VL: a table of positions, and results of some layers for the model's first ones."""
    p, n = e.p, e.patches
    x = frames(e).like("ADD", e.weight("v.patch_embd.bias"))
    x = x.like("ADD", squares(e, e.positions()))
    places = leaf(4 * n, block=I32)
    deep: Node | None = None
    if p.has("v.pre_ln.weight"):
        x = e.norm(x, "v.pre_ln")
    for i in range(p.layers):
        block, deeper = BLOCK.format(i), f"v.deepstack.{i}."
        y = e.linear(f"{block}attn_qkv", e.norm(x, f"{block}ln1"))
        nb = (y.nb[0], y.nb[0] * p.head, y.nb[1], y.nb[1] * n)
        q, k, v = (y.view((p.head, p.heads, n, 1), nb) for _ in range(3))
        x = e.attend(q.like("ROPE", places), k.like("ROPE", places), v, f"{block}attn_out").like("ADD", x)
        x = x.like("ADD", e.fed(e.norm(x, f"{block}ln2"), block))
        if p.has(f"{deeper}fc1.weight"):
            merged = e.norm(x.reshape(p.width * p.merge**2, n // p.merge**2, 1), f"{deeper}norm")
            merged = e.feed(merged, f"{deeper}fc1", f"{deeper}fc2")
            deep = merged if deep is None else deep.concat(merged)
    if p.has("v.post_ln.weight"):
        x = e.norm(x, "v.post_ln")
    x = e.feed(x.reshape(4 * p.width, n // 4, 1), "mm.0", "mm.2")
    return x if deep is None else x.concat(deep)


def pixtral(e: Encoder) -> Node:
    """Pixtral and Mistral Small 3.1: positions in two directions, a learned token at the end of each row."""
    p, by = e.p, e.p.merge
    e.rms = True
    rows, columns = leaf(e.patches, block=I32), leaf(e.patches, block=I32)
    x = e.layers(e.patched(), e.patches, lambda x: x.like("ROPE", rows).like("ROPE", columns))
    if p.has("mm.patch_merger.weight"):
        x = x.like("RMS_NORM").like("MUL", e.weight("mm.input_norm.weight"))
        x = x.reshape(p.width, e.across, e.down).permute(2, 0, 1, 3).cont()
        kernel = x.view((by, by, x.ne[2], 1), (x.nb[0], 0, 0, 0))
        size = by * by * x.ne[2]
        x = Node("IM2COL", (size, e.across // by, e.down // by, 1), F32, (kernel, x))
        x = e.weight("mm.patch_merger.weight").matmul(x.reshape(size, x.ne[1] * x.ne[2]))
    x = e.feed(x, "mm.1", "mm.2")
    if not p.has("v.token_embd.img_break"):
        return x
    wide, across, down = x.ne[0], e.across // by, e.down // by
    ends = Node("", (wide, 1, down, 1)).like("SCALE").like("ADD", e.weight("v.token_embd.img_break"))
    x = x.reshape(wide, across, down).concat(ends, 1)
    return x.view((wide, across * down + down - 1, 1, 1), (x.nb[0], x.nb[1], x.nb[2], x.nb[3]))


def internvl(e: Encoder) -> Node:
    """InternVL: a class token, patches beside each other, and a norm before the matrices."""
    p, by, count = e.p, e.p.merge, e.count
    e.rms = (p.width, p.layers) == LARGE
    x = e.patched().concat(e.weight("v.class_embd").repeat(p.width, 1, count, 1), 1)
    x = e.layers(x.like("ADD", e.weight("v.position_embd.weight")), e.patches + 1)
    x = x.view((p.width, e.patches, count, 1), (x.nb[0], x.nb[1], x.nb[2], x.nb[2] * count)).cont()
    x = x.reshape(p.width * by, e.down // by, e.across, count).permute(0, 2, 1, 3)
    x = x.cont(p.width * by * by, e.down // by, e.across // by, count).permute(0, 2, 1, 3)
    x = x.cont(p.width * by * by, x.ne[1] * x.ne[2], x.ne[3])
    return e.feed(e.norm(x, "mm.model.mlp.0"), "mm.model.mlp.1", "mm.model.mlp.3")


def resampler(e: Encoder) -> Node:
    """MiniCPM-V: learned queries attend to all patches."""
    p, n, wide = e.p, e.patches, e.p.out
    frequencies, rows, columns = leaf(wide // 4), leaf(1, n), leaf(1, n)
    table = e.weight("v.position_embd.weight").pick(leaf(n, block=I32))
    x = e.layers(e.patched().like("ADD", table), n)
    values = e.weight("resampler.kv.weight").matmul(x)
    queries = e.norm(e.weight("resampler.query"), "resampler.ln_q")
    values = e.norm(values, "resampler.ln_kv")
    each = frequencies.repeat(wide // 4, n, 1, 1)
    across, down = each.like("MUL", columns), each.like("MUL", rows)
    places = across.like("SIN").concat(across.like("COS")).concat(down.like("SIN").concat(down.like("COS")))
    keys = values.like("ADD", places)
    heads = wide // RESAMPLED
    q = e.linear("resampler.attn.q", queries).reshape(RESAMPLED, heads, p.queries)
    k = e.linear("resampler.attn.k", keys).reshape(RESAMPLED, heads, n)
    v = e.linear("resampler.attn.v", values).reshape(RESAMPLED, heads, n)
    x = e.norm(e.attend(q, k, v, "resampler.attn.out"), "resampler.ln_post")
    return e.weight("resampler.proj.weight").matmul(x)


GRAPHS: Final[Mapping[str, Callable[[Encoder], Node]]] = {
    "mlp": llava, "gemma3": siglip, "idefics3": idefics, "internvl": internvl, "pixtral": pixtral,
    "qwen2vl_merger": qwen2, "qwen2.5vl_merger": qwen2, "qwen3vl_merger": qwen3, "resampler": resampler,
}  # fmt: skip
"""By ``clip.projector_type``."""
