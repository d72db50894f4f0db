"""What the encoders of pictures in llama.cpp share: the picture as patches, layers of attention, and small operations.

Reference: tools/mtmd/clip.cpp ``clip_graph`` of ggml-org/llama.cpp v0.5.0.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Final

from tonnage.memory.ggml.graph import F16, F32, Graph, Node, four, held, leaf
from tonnage.memory.ggml.vision.projector import Projector

Turn = Callable[[Node], Node]
"""Queries or keys with their positions."""

BLOCK: Final = "v.blk.{}."


class Encoder:
    """Builds the graph of pictures of one size.

    Args:
        p: whose.
        wide, high: of a picture. [pixel]
        count: pictures that run together.
        home: the device of its weights.
        flash: attention is one operation.
    """

    def __init__(self, p: Projector, wide: int, high: int, count: int, home: int, *, flash: bool) -> None:
        self.p, self.wide, self.high, self.count, self.home, self.flash = p, wide, high, count, home, flash
        self.across, self.down = wide // p.patch, high // p.patch
        self.graph = Graph()

    @property
    def patches(self) -> int:
        """Of one picture."""
        return self.across * self.down

    # Weights and inputs.

    def weight(self, name: str) -> Node:
        """A tensor of the file."""
        shape, form = self.p.shape(name), self.p.tensors[name][1]
        return held(self.home, form, *four(*reversed(shape)))

    def maybe(self, name: str) -> Node | None:
        """The same where there is one."""
        return self.weight(name) if self.p.has(name) else None

    # Small operations.

    def norm(self, x: Node, name: str, *, rms: bool = False) -> Node:
        """A norm; its scale and shift where the file has them."""
        x = x.like("RMS_NORM" if rms else "NORM")
        for leaf_name, op in (("weight", "MUL"), ("bias", "ADD")):
            found = self.maybe(f"{name}.{leaf_name}")
            x = x if found is None else x.like(op, found)
        return x

    def linear(self, name: str, x: Node) -> Node:
        """A matrix, and its bias where the file has one."""
        x = self.weight(f"{name}.weight").matmul(x)
        bias = self.maybe(f"{name}.bias")
        return x if bias is None else x.like("ADD", bias)

    def feed(self, x: Node, up: str, down: str, gate: str = "", act: str = "UNARY") -> Node:
        """Feed-forward: gated where the file has such a matrix."""
        value = self.linear(up, x)
        if gate and self.p.has(f"{gate}.weight"):
            return self.linear(down, self.linear(gate, x).like("GLU", value))
        return self.linear(down, value.like(act))

    # The picture.

    def raw(self) -> Node:
        """Pixels."""
        return leaf(self.wide, self.high, 3, self.count)

    def convolved(self, kernel: str, x: Node) -> Node:
        """Patches, by a convolution whose steps are as wide as its kernel (``ggml_conv_2d``)."""
        w = self.weight(kernel)
        block = F32 if self.p.tensors[kernel][1] == "bf16" else F16
        size = w.ne[0] * w.ne[1] * w.ne[2]
        columns = Node("IM2COL", (size, self.across, self.down, self.count), block, (w, x))
        flat = columns.reshape(size, self.patches * self.count).matmul(w.reshape(size, w.ne[3]))
        return flat.reshape(self.across, self.down, self.count, w.ne[3]).permute(0, 1, 3, 2).cont()

    def patched(self) -> Node:
        """Patches as rows, each with the convolution's bias."""
        x = self.convolved("v.patch_embd.weight", self.raw())
        x = x.reshape(self.patches, self.p.width, self.count).transpose().cont()
        bias = self.maybe("v.patch_embd.bias")
        return x if bias is None else x.like("ADD", bias)

    def positions(self) -> Node:
        """The table of positions, stretched to the picture."""
        table, D = self.weight("v.position_embd.weight"), self.p.width
        side = isqrt(table.ne[1])
        if (self.down, self.across) == (side, side):
            return table
        grid = table.reshape(D, side, side).permute(2, 0, 1, 3)
        grid = Node("UPSCALE", (self.across, self.down, D, 1), F32, (grid,))
        return grid.permute(1, 2, 0, 3).cont(D, self.patches)

    # Layers.

    def attend(self, q: Node, k: Node, v: Node, out: str, mask: Node | None = None) -> Node:
        """Attention of all patches with all, and its output matrix."""
        for x in (q, k, v):
            self.graph.expand(x)
        q, k = q.permute(0, 2, 1, 3), k.permute(0, 2, 1, 3)
        if self.flash:
            k, v = k.cast(F16), v.permute(0, 2, 1, 3).cast(F16)
            masks = () if mask is None else (mask.cast(F16),)
            x = Node("FLASH_ATTN_EXT", (v.ne[0], q.ne[2], q.ne[1], q.ne[3]), F32, (q, k, v, *masks))
            x = x.reshape(x.ne[0] * x.ne[1], x.ne[2] * x.ne[3])
        else:
            v = v.permute(1, 2, 0, 3).cont()
            scores = k.matmul(q)
            scores = scores.like("SOFT_MAX") if mask is None else scores.like("SOFT_MAX", mask)
            x = v.matmul(scores).permute(0, 2, 1, 3)
            x = x.cont(x.ne[0] * x.ne[1], x.ne[2] * x.ne[3])
        return self.linear(out, x)

    def split(self, x: Node, block: str, positions: int) -> tuple[Node, Node, Node]:
        """Queries, keys and values: of one matrix or of three, normed where the file says so."""
        p, count = self.p, self.count
        if p.has(f"{block}attn_qkv.weight"):
            x = self.linear(f"{block}attn_qkv", x)
            nb = (x.nb[0], x.nb[0] * p.head, x.nb[1], x.nb[1] * positions)
            q, k, v = (x.view((p.head, p.heads, positions, count), nb) for _ in range(3))
            return self.head_norm(q, f"{block}attn_q_norm"), self.head_norm(k, f"{block}attn_k_norm"), v
        parts = [self.linear(f"{block}attn_{name}", x) for name in "qkv"]
        names = [f"{block}attn_q_norm", f"{block}attn_k_norm"]
        whole = p.has(f"{names[0]}.weight") and p.shape(f"{names[0]}.weight")[0] != p.head
        if whole:
            parts[:2] = [self.head_norm(x, name) for x, name in zip(parts[:2], names, strict=True)]
        q, k, v = (x.reshape(p.head, p.heads, positions, count) for x in parts)
        if not whole:
            q, k = self.head_norm(q, names[0]), self.head_norm(k, names[1])
        return q, k, v

    def head_norm(self, x: Node, name: str) -> Node:
        """A norm of queries or keys, where there is one."""
        return self.norm(x, name, rms=self.rms) if self.p.has(f"{name}.weight") else x

    rms = False
    """Norms do not subtract the mean."""

    def layers(self, x: Node, positions: int, turn: Turn | None = None) -> Node:
        """All layers and the norms around them (``build_vit``).

        Args:
            x: rows of ``width``, for each position of each picture.
            positions: of one picture.
            turn: applied to queries and keys.
        """
        x = x.reshape(self.p.width, positions * self.count)
        if self.p.has("v.pre_ln.weight"):
            x = self.norm(x, "v.pre_ln", rms=self.rms)
        for i in range(self.p.layers):
            block = BLOCK.format(i)
            q, k, v = self.split(self.norm(x, f"{block}ln1", rms=self.rms), block, positions)
            if turn is not None:
                q, k = turn(q), turn(k)
            y = self.scaled(self.attend(q, k, v, f"{block}attn_out"), f"{block}ls1")
            x = y.like("ADD", x)
            y = self.fed(self.norm(x, f"{block}ln2", rms=self.rms), block)
            x = x.like("ADD", self.scaled(y, f"{block}ls2"))
        if self.p.has("v.post_ln.weight"):
            x = self.norm(x, "v.post_ln", rms=self.rms)
        return x.reshape(self.p.width, positions, self.count)

    def scaled(self, x: Node, name: str) -> Node:
        """Scaled by a learned vector, where there is one."""
        found = self.maybe(f"{name}.weight")
        return x if found is None else x.like("MUL", found)

    def fed(self, x: Node, block: str) -> Node:
        """A layer's feed-forward. In old files of most types the two matrices have each other's names."""
        up, down = f"{block}ffn_up", f"{block}ffn_down"
        if self.p.shape(f"{down}.weight")[-1] == self.p.width != self.p.shape(f"{down}.weight")[0]:
            up, down = down, up
        return self.feed(x, up, down, f"{block}ffn_gate")
