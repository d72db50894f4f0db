"""Which results of compiled code are in memory: the kernels of a graph, what each reads and what it makes.

Inductor runs what fuses as one kernel, so that only what a kernel hands to another one is in memory. What the backward
pass reads and the forward pass did not keep is made again inside the kernels that read it.

What inductor puts in memory beyond that is a matter of its heuristics, which three ways bound. The ``fewest`` buffers
are there where a kernel writes over what it is the last to read, and what several kernels read is made again in each.
The ``usual``: it writes anew, and such a tensor is in memory for all of them. The ``most``: sums over tokens (gradients
of scales and biases) and joins are kernels of their own, and buffers wait for a later one of their size.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/_inductor/ (config.py ``inplace_buffers``,
``allow_buffer_reuse``; scheduler.py, codegen/wrapper.py: buffers are freed behind their last use; graph.py ``realize``)
"""

from __future__ import annotations

from typing import Literal

from tonnage.arch.compiled import APART, Flow
from tonnage.arch.tape import Storage
from tonnage.memory.partition import SMALLER, Graph

Buffers = Literal["fewest", "usual", "most"]
Kernel = tuple[Flow, list[Storage], list[Storage]]
"""An operation, buffers that it makes, and buffers that it reads."""


def _in_memory(f: Flow, users: list[Flow], order: dict[Flow, int], flows: list[Flow], buffers: Buffers) -> bool:
    """Whether what an operation makes is in memory, for those that read it."""
    if f.kind in APART or any(u.kind in APART for u in users):
        return True
    if buffers == "most" and f.kind == "joined":
        return True
    # A kernel of its own stands between those that read it.
    at = [order[u] for u in users]
    return buffers != "fewest" and len(at) > 1 and any(u.kind in APART for u in flows[min(at) + 1 : max(at)])


def forward(
    g: Graph, keeps: set[Storage], y: Storage | None, buffers: Buffers, given: frozenset[Storage] = frozenset()
) -> list[Kernel]:
    """Kernels of the forward graph, as far as its result or what it keeps needs them, and is not ``given``."""
    wanted = {*keeps, *([y] if y is not None else [])}
    there = {*wanted, *given}
    for f in g.forward:
        for s in f.outputs:
            users = g.users[s]
            if _in_memory(f, users, g.order, g.forward, buffers):
                there.add(s)
    made = [(f, [s for s in f.outputs if s in there and s not in given]) for f in g.forward]
    return _needed(g, made, there, wanted - given)


def backward(g: Graph, keeps: set[Storage], results: set[Storage], buffers: Buffers) -> list[Kernel]:
    """Kernels of the backward graph."""
    users: dict[Storage, list[Flow]] = {}
    for f in g.backward:
        for s in f.inputs:
            users.setdefault(s, []).append(f)
    order = {f: n for n, f in enumerate(g.backward)}
    there = {*results, *keeps}
    for f in g.backward:
        for s in f.outputs:
            own = users.get(s, [])
            if s not in results and not own:
                continue
            if _in_memory(f, own, order, g.backward, buffers):
                there.add(s)
        if buffers == "most" and f.kind == "fused":
            # Sums over tokens and over rows, each with what it is the sum of.
            sums = any(s.category == "gradients" for s in f.outputs)
            there.update(i for i in f.inputs if sums or _summed(i, f, users))
    return _needed(g, [(f, [s for s in f.outputs if s in there]) for f in g.backward], there, results)


def _summed(s: Storage, f: Flow, users: dict[Storage, list[Flow]]) -> bool:
    """Whether an operation sums a tensor that is read for something else as well."""
    small = [o.nbytes * SMALLER < s.nbytes for o in f.outputs]
    return any(small) and (len(users.get(s, ())) > 1 or not all(small))


def _needed(
    g: Graph, made: list[tuple[Flow, list[Storage]]], there: set[Storage], wanted: set[Storage]
) -> list[Kernel]:
    """Kernels that what is wanted depends on, with the buffers that each reads."""
    memo: dict[Storage, tuple[Storage, ...]] = {}

    def sources(s: Storage) -> tuple[Storage, ...]:
        """The buffers that a tensor is made of, or the tensor itself where it is one."""
        maker = g.maker.get(s)
        if s in there or maker is None:
            return (s,)
        if s not in memo:
            memo[s] = _read(maker)
        return memo[s]

    def _read(f: Flow) -> tuple[Storage, ...]:
        return tuple(dict.fromkeys(b for s in (*f.inputs, *f.reads) for b in sources(s)))

    steps = [(f, outputs, list(_read(f))) for f, outputs in made if outputs]
    needed = set(wanted)
    found = []
    for f, outputs, read in reversed(steps):
        if needed.intersection(outputs):
            needed.update(read)
            found.append((f, outputs, read))
    found.reverse()
    return found
