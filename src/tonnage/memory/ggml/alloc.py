"""ggml's graph allocator: how much memory the tensors of a graph take when each lives from its first use to its last.

Tensors are placed one after the other in the order of the graph, each in the smallest free block that holds it; some
operations write into the storage of an operand that nobody else needs.

Reference: ggml/src/ggml-alloc.c of ggml-org/llama.cpp v0.5.0, ``ggml_gallocr_alloc_graph_impl``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tonnage.memory.ggml.graph import Node

IN_PLACE: Final = frozenset(
    (
        "FILL", "SCALE", "DIAG_MASK_ZERO", "DIAG_MASK_INF", "ADD", "ADD_ID", "ADD1", "SUB", "MUL", "DIV", "SQR",
        "SQRT", "LOG", "UNARY", "ROPE", "RMS_NORM", "CLAMP", "SOFT_MAX",
    )
)  # fmt: skip
"""Operations that may write into an operand's storage (``ggml_op_can_inplace``)."""

ENDLESS: Final = 1 << 62


class Blocks:
    """One buffer: free blocks by address. The last one reaches to the end of the address space."""

    __slots__ = ("align", "free", "most")

    def __init__(self, align: int) -> None:
        self.align = align
        self.free: list[list[int]] = [[0, ENDLESS]]
        self.most = 0

    def padded(self, size: int) -> int:
        """A size as it is taken. [byte]"""
        return -(-size // self.align) * self.align

    def take(self, size: int) -> int:
        """The offset of a block of ``size``: the smallest that holds it, the last one only where no other does."""
        size = self.padded(size)
        best, fit = -1, ENDLESS + 1
        for i in range(len(self.free) - 1):
            there = self.free[i][1]
            # Of blocks of one size the last is taken.
            if size <= there <= fit:
                best, fit = i, there
        block = self.free[best]
        at = block[0]
        block[0] += size
        block[1] -= size
        if block[1] == 0:
            del self.free[best]
        self.most = max(self.most, at + size)
        return at

    def give(self, at: int, size: int) -> None:
        """Free a block and join it with its neighbours."""
        size = self.padded(size)
        for i, block in enumerate(self.free):
            if block[0] + block[1] == at:
                block[1] += size
                if i + 1 < len(self.free) and block[0] + block[1] == self.free[i + 1][0]:
                    block[1] += self.free[i + 1][1]
                    del self.free[i + 1]
                return
            if at + size == block[0]:
                block[0] = at
                block[1] += size
                if i > 0 and self.free[i - 1][0] + self.free[i - 1][1] == at:
                    self.free[i - 1][1] += block[1]
                    del self.free[i]
                return
        place = next((i for i, block in enumerate(self.free) if block[0] >= at), len(self.free))
        self.free.insert(place, [at, size])


class _Life:
    """What the allocator knows of a tensor."""

    __slots__ = ("at", "buffer", "children", "mine", "views")

    def __init__(self) -> None:
        self.children = self.views = 0
        self.mine = False
        self.buffer = self.at = 0


class Allocator:
    """Lays a graph out over the buffers of several devices.

    Args:
        aligns: alignment of each device's buffer. [byte]
        size: what a tensor takes on a device.
    """

    __slots__ = ("_lives", "_size", "buffers")

    def __init__(self, aligns: Sequence[int], size: Callable[[Node, int], int]) -> None:
        self.buffers = [Blocks(a) for a in aligns]
        self._size = size
        self._lives: dict[int, _Life] = {}

    def _life(self, t: Node) -> _Life:
        found = self._lives.get(id(t))
        if found is None:
            found = self._lives[id(t)] = _Life()
        return found

    def lay(self, nodes: Sequence[Node], leafs: Sequence[Node]) -> list[int]:
        """Place every tensor; the bytes that each buffer needs. [byte]

        ``Node.where`` names each tensor's device. Nodes without an operation keep their operands alive up to there.
        """
        for t in leafs:
            self._place(t, t.where)
        for node in nodes:
            if node.root is not None and node.op:
                self._life(node.root).views += 1
            if node.input:
                self._place(node, node.where)
            for below in node.src:
                self._life(below).children += 1
                if below.input:
                    self._place(below, node.where)
        for node in nodes:
            for below in node.src:
                self._place(below, node.where)
            self._place(node, node.where)
            for below in node.src:
                self._used(below)
        return [b.most for b in self.buffers]

    def _place(self, t: Node, buffer: int) -> None:
        life = self._life(t)
        if life.mine or t.home is not None or t.root is not None:
            return
        life.mine = True
        if t.op in IN_PLACE:
            for below in t.src:
                if self._over(t, life, below):
                    return
        life.buffer = buffer
        life.at = self.buffers[buffer].take(self._size(t, buffer))

    def _over(self, t: Node, life: _Life, below: Node) -> bool:
        """Whether ``t`` takes the storage of an operand that nothing else needs.

        ggml never takes over a view's storage: it does not hold views for its own.
        """
        old = self._life(below)
        if not old.mine or below.output or not t.alike(below) or old.children != 1 or old.views != 0:
            return False
        life.buffer, life.at = old.buffer, old.at
        old.mine = False
        blocks = self.buffers[old.buffer]
        had, needs = blocks.padded(self._size(below, old.buffer)), blocks.padded(self._size(t, old.buffer))
        if had > needs:
            blocks.give(old.at + needs, had - needs)
        return True

    def _used(self, t: Node) -> None:
        """One of the operations that need ``t`` has run."""
        life = self._life(t)
        life.children -= 1
        if life.children or life.views:
            return
        if t.root is not None:
            owner = self._life(t.root)
            owner.views -= 1
            if not owner.views and not owner.children and owner.mine:
                self._free(t.root, owner)
        elif life.mine:
            self._free(t, life)

    def _free(self, t: Node, life: _Life) -> None:
        if t.output:
            return
        self.buffers[life.buffer].give(life.at, self._size(t, life.buffer))
        life.mine = False
