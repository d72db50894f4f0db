"""ggml's scheduler: which device runs which operation of a graph, and what has to be copied between them.

Operations run where their weights lie; what has none runs with its neighbours, rather on an accelerator than on the
host. Where an operand lies on another device, a copy of it is kept from the start of the part of the graph (the split)
that needs it.

Reference: ggml/src/ggml-backend.cpp of ggml-org/llama.cpp v0.5.0, ``ggml_backend_sched_split_graph``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from tonnage.memory.ggml.alloc import Allocator
from tonnage.memory.ggml.graph import Graph, Node
from tonnage.record import Record

VIEWS: Final = frozenset(("VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"))

COPIES: Final = 4
"""Copies of every input where devices work on several batches at once (``GGML_SCHED_MAX_COPIES``)."""

OFFLOADED: Final = 32
"""Tokens from which on an accelerator fetches a weight that lies in host memory, and computes with it."""


class Device(Record):
    """What the scheduler knows of a device.

    Args:
        name: of its buffers, as the log prints them.
        align: of tensors in its buffers. [byte]
        fetches: whether it takes over large operations whose weights lie in host memory.
        size: what a tensor takes in its buffers.
        runs: whether it has an operation; None where it has all.
    """

    name: str
    align: int
    fetches: bool
    size: Callable[[Node], int]
    runs: Callable[[Node], bool] | None = None

    def has(self, t: Node) -> bool:
        """Whether it has an operation."""
        return self.runs is None or self.runs(t)


def reserved(graph: Graph, devices: Sequence[Device], *, copies: int = 1, fetch: bool = True) -> tuple[list[int], int]:
    """Bytes of each device's compute buffer, and the number of splits. The host comes last.

    Args:
        graph: the worst case.
        devices: accelerators in order, then the host.
        copies: of every input (``COPIES`` with pipeline parallelism).
        fetch: whether weights in host memory may be fetched (``op_offload``).
    """
    plan = _Plan(graph, devices, copies, fetch)
    nodes, leafs = plan.laid_out()
    allocator = Allocator([d.align for d in devices], lambda t, at: devices[at].size(t))
    return allocator.lay(nodes, leafs), plan.splits


class _Plan:
    def __init__(self, graph: Graph, devices: Sequence[Device], copies: int, fetch: bool) -> None:
        self.graph, self.devices, self.copies, self.fetch = graph, devices, copies, fetch
        self.host = len(devices) - 1
        self.splits = 1

    def laid_out(self) -> tuple[list[Node], list[Node]]:
        """The graph with the copies between devices in it."""
        nodes, leafs = self.graph.nodes, self.graph.leafs
        if self.host == 0:
            for t in (*nodes, *leafs):
                t.where = 0
            return nodes, leafs
        self._assign()
        return self._split()

    # Which device runs what.

    def _assign(self) -> None:
        real = [n for n in self.graph.nodes if n.op not in VIEWS]
        for t in (*self.graph.leafs, *self.graph.nodes):
            if t.where < 0:
                t.where = self._told(t)
        for skips in (True, False):
            for order in (real, real[::-1]):
                self._spread(order, skips)
        for node in real:
            if node.where < 0:
                node.where = self._nearest(node)
        for node in self.graph.nodes:
            if node.root is not None and node.where < 0:
                node.where = node.root.where
            for below in node.src:
                if below.where < 0:
                    below.where = below.root.where if below.root is not None else node.where
            if node.where < 0:
                node.where = 0

    def _told(self, t: Node) -> int:
        """The device that its own storage or its weights name; -1 where nothing does."""
        home = t.base.home
        if home is not None:
            return home
        if t.input:
            return self.host
        if t.op in ("ROPE", "FLASH_ATTN_EXT"):
            return -1
        for below in t.src:
            if below.home is not None and below.weight:
                if self.fetch and below.home == self.host and batch(t) >= OFFLOADED:
                    return next((i for i, d in enumerate(self.devices) if d.fetches), self.host)
                return below.home
        return -1

    def _spread(self, order: Iterable[Node], skips_host: bool) -> None:
        """Neighbours of an operation run where it does; the host's are left open at first."""
        at = -1
        for node in order:
            if node.where >= 0:
                at = -1 if skips_host and node.where == self.host else node.where
            elif at >= 0 and self.devices[at].has(node):
                node.where = at

    def _nearest(self, node: Node) -> int:
        """The device that holds most of the operands."""
        best, most = 0, -1
        for at, device in enumerate(self.devices):
            if not device.has(node):
                continue
            n = sum(below.where >= 0 and self._reads(below, at) for below in node.src)
            if n > most:
                best, most = at, n
        return best

    def _reads(self, t: Node, at: int) -> bool:
        home = t.base.home
        return (t.where if home is None else home) == at

    # What is copied.

    def _split(self) -> tuple[list[Node], list[Node]]:
        out: list[Node] = []
        extra: list[Node] = []
        made: dict[tuple[int, int], Node] = {}
        inputs: dict[int, list[Node]] = {}
        crossing: dict[int, list[Node]] = {}
        real = [n for n in self.graph.nodes if n.op not in VIEWS]
        at = real[0].where if real else self.host
        pending: list[Node] = []
        copied: list[Node] = []
        for node in self.graph.nodes:
            if node.op in VIEWS:
                pending.append(node)
                continue
            if node.where != at or (copied and self._weights_elsewhere(node, at)):
                out += self._closed(copied, at, made, pending)
                pending, copied = [], []
                at = node.where
                self.splits += 1
            node.src = tuple(self._operand(below, at, made, inputs, crossing, copied) for below in node.src)
            pending.append(node)
        out += self._closed(copied, at, made, pending)
        if self.copies > 1:
            # Inputs of the graph come first, then what is copied between devices.
            extra = [c for several in (*inputs.values(), *crossing.values()) for c in several]
        return out, extra + self.graph.leafs

    def _weights_elsewhere(self, node: Node, at: int) -> bool:
        """Whether a weight has to be fetched: a new split lets go of the last one's."""
        return any(b.home is not None and b.weight and b.where != at and not self._reads(b, at) for b in node.src)

    def _operand(
        self, t: Node, at: int, made: dict[tuple[int, int], Node], inputs: dict[int, list[Node]],
        crossing: dict[int, list[Node]], copied: list[Node],
    ) -> Node:  # fmt: skip
        if t.input and self.copies > 1 and id(t) not in inputs:
            inputs[id(t)] = self._twins(t, t.where, first=t)
        if t.where == at or self._reads(t, at):
            return t
        found = made.get((id(t), at))
        if found is None:
            found = made[id(t), at] = _twin(t, at)
            if self.copies > 1:
                crossing[id(found)] = self._twins(t, at, first=found)
            copied.append(t)
        return found

    def _twins(self, t: Node, at: int, first: Node) -> list[Node]:
        """One copy of an input for every batch in flight; none is freed."""
        several = [first, *(_twin(t, at) for _ in range(self.copies - 1))]
        for one in several:
            one.input = one.output = True
        return several

    def _closed(self, copied: list[Node], at: int, made: dict[tuple[int, int], Node], nodes: list[Node]) -> list[Node]:
        """A split: what is copied for it, each with a note that keeps its source alive until then, and its nodes."""
        out: list[Node] = []
        for t in copied:
            note = Node("", t.ne, t.block, (t,), nb=t.nb, root=t.base, home=t.base.home)
            note.where = t.where
            out += [note, made[id(t), at]]
        return out + nodes


def _twin(t: Node, at: int) -> Node:
    copy = Node("", t.ne, t.block, nb=t.nb)
    copy.where = at
    return copy


def batch(t: Node) -> int:
    """Rows that an operation works on, as an accelerator counts them before it fetches a weight."""
    if t.op == "GET_ROWS":
        return 0
    if t.op == "MUL_MAT":
        return t.ne[1]
    if t.op in ("MUL_MAT_ID", "ROPE"):
        return t.ne[2]
    return t.ne[1] * t.ne[2] * t.ne[3]
