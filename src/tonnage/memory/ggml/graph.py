"""ggml's computation graphs, without data: tensors with their strides, operations, and the order in which they run.

A graph is built as llama.cpp's builders do and in the same order, since ggml's allocator places tensors greedily: what
lies where depends on which operation comes first.

Reference: ggml/src/ggml.c of ggml-org/llama.cpp v0.5.0 (ggml 0.25.1), ``ggml_visit_parents_graph`` and what makes
tensors.
"""

from __future__ import annotations

from math import prod
from typing import Final

from tonnage.formats import FORMATS

Shape = tuple[int, int, int, int]

F32: Final = (4, 1)
F16: Final = (2, 1)
I32: Final = (4, 1)
I64: Final = (8, 1)
"""Bytes of a block and elements in it."""


class Unmodelled(Exception):  # noqa: N818
    """A structure whose graph is not known."""


def unit(form: str) -> tuple[int, int]:
    """Bytes and elements of a format's block.

    >>> unit("q8_0")
    (34, 32)
    """
    found = FORMATS[form]
    return found.bytes, found.elements


def strides(ne: Shape, block: tuple[int, int]) -> Shape:
    """Byte strides of a contiguous tensor."""
    size, elements = block
    first = size * (ne[0] // elements)
    return size, first, first * ne[1], first * ne[1] * ne[2]


class Node:
    """A tensor of the graph: an operation's result, a view, an input or a weight.

    Args:
        op: the operation; empty for a leaf.
        ne: elements of each dimension, innermost first.
        block: bytes and elements of a block of its format.
        src: operands, in ggml's order.
        nb: byte strides; contiguous when None.
        root: the tensor whose storage a view shows.
        home: the device whose buffer holds it already (weights, caches); None for what the graph allocates.
    """

    __slots__ = ("block", "home", "input", "nb", "ne", "op", "output", "root", "src", "weight", "where")

    def __init__(
        self, op: str, ne: Shape, block: tuple[int, int] = F32, src: tuple[Node, ...] = (), *, nb: Shape | None = None,
        root: Node | None = None, home: int | None = None, weight: bool = False,
    ) -> None:  # fmt: skip
        self.op, self.ne, self.block, self.src = op, ne, block, src
        self.nb = strides(ne, block) if nb is None else nb
        self.root = root
        self.home = home
        self.weight = weight
        self.input = self.output = False
        self.where = -1
        """The device that computes or holds it, as the scheduler decides."""

    @property
    def base(self) -> Node:
        """The tensor that owns the storage."""
        return self if self.root is None else self.root

    @property
    def nbytes(self) -> int:
        """Bytes from its first element to its last, as ``ggml_nbytes``. [byte]"""
        if 0 in self.ne:
            return 0
        size, elements = self.block
        if elements == 1:
            return size + sum((n - 1) * b for n, b in zip(self.ne, self.nb, strict=True))
        rest = sum((n - 1) * b for n, b in zip(self.ne[1:], self.nb[1:], strict=True))
        return self.ne[0] * self.nb[0] // elements + rest

    @property
    def numel(self) -> int:
        """Elements."""
        return prod(self.ne)

    @property
    def contiguous(self) -> bool:
        """Whether no stride differs from a packed tensor's; dimensions of one element do not count."""
        packed = strides(self.ne, self.block)
        return all(n == 1 or b == p for n, b, p in zip(self.ne, self.nb, packed, strict=True))

    def alike(self, other: Node) -> bool:
        """Same format, shape and strides (``ggml_are_same_layout``)."""
        return self.block == other.block and self.ne == other.ne and self.nb == other.nb

    # Views: no storage of their own.

    def view(self, ne: Shape, nb: Shape, op: str = "VIEW") -> Node:
        """Part of it, at strides of its own."""
        return Node(op, ne, self.block, (self,), nb=nb, root=self.base, home=self.base.home)

    def reshape(self, *ne: int) -> Node:
        """The same elements in another shape."""
        return Node("RESHAPE", four(*ne), self.block, (self,), root=self.base, home=self.base.home)

    def permute(self, *to: int) -> Node:
        """Dimension ``i`` becomes dimension ``to[i]``."""
        ne, nb = [0] * 4, [0] * 4
        for i, at in enumerate(to):
            ne[at], nb[at] = self.ne[i], self.nb[i]
        return self.view((ne[0], ne[1], ne[2], ne[3]), (nb[0], nb[1], nb[2], nb[3]), "PERMUTE")

    def transpose(self) -> Node:
        """The first two dimensions swapped."""
        (a, b, c, d), (p, q, r, s) = self.ne, self.nb
        return self.view((b, a, c, d), (q, p, r, s), "TRANSPOSE")

    # Operations with a result of their own.

    def like(self, op: str, *others: Node) -> Node:
        """An operation whose result has this tensor's shape: norms, sums, products, activation functions."""
        return Node(op, self.ne, self.block, (self, *others))

    def matmul(self, x: Node) -> Node:
        """This matrix, row by row, with every row of ``x``."""
        return Node("MUL_MAT", (self.ne[1], x.ne[1], x.ne[2], x.ne[3]), F32, (self, x))

    def matmul_id(self, x: Node, ids: Node) -> Node:
        """The matrices of the chosen experts with the rows of ``x``."""
        return Node("MUL_MAT_ID", (self.ne[1], ids.ne[0], x.ne[2], 1), F32, (self, x, ids))

    def pick(self, ids: Node) -> Node:
        """Rows by number, in fp32."""
        return Node("GET_ROWS", (self.ne[0], ids.ne[0], ids.ne[1], ids.ne[2]), F32, (self, ids))

    def cont(self, *ne: int) -> Node:
        """A packed copy."""
        return Node("CONT", four(*ne) if ne else self.ne, self.block, (self,))

    def concat(self, other: Node, dim: int = 0) -> Node:
        """Both, one behind the other."""
        ne = [n + m if i == dim else n for i, (n, m) in enumerate(zip(self.ne, other.ne, strict=True))]
        return Node("CONCAT", (ne[0], ne[1], ne[2], ne[3]), self.block, (self, other))

    def repeat(self, *ne: int) -> Node:
        """Copies of it side by side."""
        return Node("REPEAT", four(*ne), self.block, (self,))

    def padded(self, *ne: int) -> Node:
        """It with zeros around."""
        return Node("PAD", four(*ne), self.block, (self,))

    def sum_rows(self) -> Node:
        """One number a row."""
        return Node("SUM_ROWS", (1, *self.ne[1:]), self.block, (self,))

    def top(self, k: int) -> Node:
        """Numbers of the ``k`` largest of a row: all of them sorted, and a view of the first."""
        order = Node("ARGSORT", self.ne, I32, (self,))
        return order.view((k, *self.ne[1:]), order.nb)

    def halves(self) -> Node:
        """A gated activation whose gate and value are the two halves of a row."""
        return Node("GLU", (self.ne[0] // 2, *self.ne[1:]), self.block, (self,))

    def cast(self, block: tuple[int, int]) -> Node:
        """It in another format."""
        return Node("CPY", self.ne, block, (self,))

    def copy_to(self, target: Node) -> Node:
        """Copied into a tensor that is there: a view of that."""
        return Node("CPY", target.ne, target.block, (self, target), nb=target.nb, root=target.base,
                    home=target.base.home)  # fmt: skip

    def store(self, rows: Node, ids: Node) -> Node:
        """``rows`` written into this tensor: a view of it."""
        return Node("SET_ROWS", self.ne, self.block, (rows, ids, self), nb=self.nb, root=self.base,
                    home=self.base.home)  # fmt: skip


def four(*ne: int) -> Shape:
    """Four dimensions.

    >>> four(3, 2)
    (3, 2, 1, 1)
    """
    a, b, c, d = (*ne, 1, 1, 1)[:4]
    return a, b, c, d


def leaf(*ne: int, block: tuple[int, int] = F32) -> Node:
    """An input, written before the graph runs."""
    made = Node("", four(*ne), block)
    made.input = True
    return made


def held(home: int, form: str, *ne: int, weight: bool = True) -> Node:
    """A tensor that lies in a device's buffer: a weight, or a cache."""
    return Node("", four(*ne), unit(form), home=home, weight=weight)


class Graph:
    """Operations in the order in which they run, and the leaves in the order in which they were met."""

    __slots__ = ("_seen", "leafs", "nodes")

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.leafs: list[Node] = []
        self._seen: set[int] = set()

    def expand(self, t: Node) -> Node:
        """Add what ``t`` needs, operands first and from left to right, then ``t`` itself."""
        stack: list[tuple[Node, int]] = []
        if id(t) not in self._seen:
            self._seen.add(id(t))
            stack.append((t, 0))
        while stack:
            node, at = stack.pop()
            if at < len(node.src):
                stack.append((node, at + 1))
                below = node.src[at]
                if id(below) not in self._seen:
                    self._seen.add(id(below))
                    stack.append((below, 0))
            elif node.op:
                self.nodes.append(node)
            else:
                self.leafs.append(node)
        return t
