"""Which tensors compiled code keeps for its backward pass: the min cut of AOTAutograd's partitioner.

The graph has an edge for every tensor, whose capacity is what keeping it costs. What may not be made again hangs from
the source, what the backward pass reads hangs from the sink, and the cheapest cut between the two is what is kept.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/_functorch/partitioners.py (solve_min_cut, with
``activation_memory_budget`` of 1 and the other settings of torch/_functorch/config.py as they are)

Leaves out: sizes of views, which may be smaller than what they show; weights, which are kept for nothing.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import Final

from tonnage.arch.compiled import Flow
from tonnage.arch.tape import Storage

NEARER: Final = 1.1
"""What a step further from the backward pass adds to a tensor's cost (get_node_weight)."""
FURTHEST: Final = 100
SMALLER: Final = 4
"""What is more than so many times smaller than what it was made of is not made again (ban_recompute_reductions)."""
CHAIN: Final = 100
"""Steps that may fuse one behind the other before one of them is kept (ban_recompute_long_fusible_chains)."""
WHOLE: Final = 1 << 62


class Graph:
    """Operations of both passes, and who reads what.

    Args:
        flows: in the order in which they are traced.
        given: what is there before the first of them.
        results: what the forward pass hands on.
        within: what is given was made by a step that fuses, in the same graph.
    """

    def __init__(
        self, flows: list[Flow], given: list[Storage], results: list[Storage], *, within: bool = False
    ) -> None:
        self.given = given
        self.within = within
        self.results = results
        self.maker: dict[Storage, Flow] = {s: f for f in flows for s in f.outputs}
        self.forward = [f for f in flows if not f.backward]
        self.backward = [f for f in flows if f.backward]
        known = {*given, *(s for f in self.forward for s in f.outputs)}
        self.nodes = [*given, *(s for f in self.forward for s in f.outputs)]
        self.users: dict[Storage, list[Flow]] = {s: [] for s in known}
        self.later: dict[Storage, list[Flow]] = {s: [] for s in known}
        for f in self.forward:
            for s in f.inputs:
                if s in known:
                    self.users[s].append(f)
        for f in self.backward:
            for s in (*f.reads, *f.inputs):
                if s in known:
                    self.later[s].append(f)
        self.order = {f: n for n, f in enumerate(self.forward)}

    def fuses(self, s: Storage, into: Flow) -> bool:
        """Whether what makes a tensor and what reads it run as one kernel."""
        if into.kind == "joined":
            return True
        maker = self.maker.get(s)
        fused = self.within if maker is None else maker.kind in ("fused", "random")
        return fused and into.kind in ("fused", "random")

    def materialized(self, s: Storage) -> bool:
        """Whether a tensor has to be in memory for one that reads it."""
        if not self.within and (s in self.given or s in self.results):
            return True
        return not all(self.fuses(s, f) for f in (*self.users[s], *self.later[s]))

    def distances(self) -> dict[Storage, int]:
        """Steps from each tensor to the backward pass."""
        far = 1 << 30
        found: dict[Storage, int] = {}
        for s in reversed(self.nodes):
            users = [1 + min((found.get(o, far) for o in f.outputs), default=far) for f in self.users[s]]
            found[s] = min([1 if self.later[s] else far, *users])
        return found


def kept(g: Graph) -> list[Storage]:
    """What the forward pass keeps for the backward pass, in the order in which it is made."""
    far = g.distances()
    banned = {s for s in g.nodes if _banned(g, s)}
    banned |= _far_apart(g, banned)
    banned |= _long_chains(g, banned)
    edges: dict[object, dict[object, int]] = {"source": {}, "sink": {}}

    def edge(a: object, b: object, capacity: int) -> None:
        edges.setdefault(a, {})[b] = capacity
        edges.setdefault(b, {}).setdefault(a, 0)

    for s in g.nodes:
        cost = int(s.nbytes * NEARER ** max(min(far[s], FURTHEST), 1))
        edge((s, 0), (s, 1), cost if g.materialized(s) else 2 * cost)
        if s in banned:
            edge("source", (s, 0), WHOLE)
        if g.later[s]:
            edge((s, 1), "sink", WHOLE)
        for f in g.users[s]:
            for o in f.outputs:
                edge((s, 1), (o, 0), WHOLE)
    below = _reaching(edges)
    return [s for s in g.nodes if (s, 0) not in below and (s, 1) in below]


def tagged(g: Graph, keeps: set[Storage]) -> list[Storage]:
    """What a selective checkpoint within compiled code keeps: of the results that are marked, and of what is given,
    all that the backward pass or what is made again reads. Nothing else is kept (``must_recompute``)."""
    wanted: set[Storage] = set()
    todo = [s for s in g.nodes if g.later[s]]
    while todo:
        s = todo.pop()
        if s in wanted:
            continue
        wanted.add(s)
        maker = g.maker.get(s)
        if maker is not None and s not in keeps:
            todo += [i for i in maker.inputs if i in g.users]
    return [s for s in g.nodes if s in wanted and (s in keeps or s in g.given)]


def _banned(g: Graph, s: Storage) -> bool:
    """Whether a tensor may not be made again."""
    maker = g.maker.get(s)
    if maker is None or maker.kind != "fused":
        return True
    if any(not g.fuses(s, f) for f in g.later[s]):
        return True
    return s.nbytes * SMALLER < sum(i.nbytes for i in maker.inputs)


def _far_apart(g: Graph, banned: set[Storage]) -> set[Storage]:
    """What reads a tensor behind a step that does not fuse (ban_recompute_used_far_apart)."""
    found: set[Storage] = set()
    for s in g.nodes:
        users = g.users[s]
        if not users:
            continue
        last = max(g.order[f] for f in users)
        first = _unfused(g, users, last)
        for f in users:
            if g.order[f] > first and g.fuses(s, f):
                found |= {o for o in f.outputs if o not in banned}
    return found


def _unfused(g: Graph, users: list[Flow], last: int) -> int:
    heap = [(g.order[f], True) for f in users]
    heap.sort()
    seen = set(heap)
    while heap:
        at, fused = heappop(heap)
        if not fused:
            return at
        for o in g.forward[at].outputs:
            for f in g.users[o]:
                entry = (g.order[f], g.fuses(o, f))
                if entry[0] <= last and entry not in seen:
                    seen.add(entry)
                    heappush(heap, entry)
    return last


def _long_chains(g: Graph, banned: set[Storage]) -> set[Storage]:
    found: set[Storage] = set()
    seen: set[int] = set()
    for start in range(len(g.forward)):
        heap = [start]
        while heap:
            at = heappop(heap)
            if at in seen:
                continue
            seen.add(at)
            if at > start + CHAIN and not heap:
                found |= set(g.forward[at].outputs)
                break
            for o in g.forward[at].outputs:
                for f in g.users[o]:
                    if g.fuses(o, f) and not banned.intersection(f.outputs):
                        heappush(heap, g.order[f])
    return found


def _reaching(edges: dict[object, dict[object, int]]) -> set[object]:
    """Ends of the graph from which the sink is still reached when no more flows: the sink's side of the cut."""
    while True:
        before: dict[object, object] = {"source": "source"}
        queue = deque(["source"])  # type: deque[object]
        while queue and "sink" not in before:
            a = queue.popleft()
            for b, left in edges[a].items():
                if left and b not in before:
                    before[b] = a
                    queue.append(b)
        if "sink" not in before:
            break
        path: list[tuple[object, object]] = []
        at: object = "sink"
        while at != "source":
            path.append((before[at], at))
            at = before[at]
        flow = min(edges[a][b] for a, b in path)
        for a, b in path:
            edges[a][b] -= flow
            edges[b][a] += flow
    into: dict[object, list[object]] = {}
    for a, out in edges.items():
        for b, left in out.items():
            if left:
                into.setdefault(b, []).append(a)
    reached: set[object] = {"sink"}
    queue = deque(["sink"])
    while queue:
        for a in into.get(queue.popleft(), ()):
            if a not in reached:
                reached.add(a)
                queue.append(a)
    return reached
