"""Layers that find keys and values in their cache, and join their own with them.

What was there is let go of when both are joined; what is joined stays in the cache until the model's output is gone,
whatever the graph holds of it. Gradients of what was there wait for the steps that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tonnage.arch import ops
from tonnage.arch.eager import by_heads
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Node, Storage, Tape, Value
from tonnage.tensors import Axes

Pair = tuple[Value, Value]
Run = Callable[[Forward, Value], Value]


class Prefixed:
    """One layer's forward pass with a cache.

    Args:
        run: the layer's forward pass.
        like: keys and values as every layer finds them.
    """

    def __init__(self, run: Run, like: Pair) -> None:
        self._run = run
        self._axes, self._dtype = like[0].axes, like[0].dtype
        self._cache: list[Value] = []
        self._nodes: list[Node] = []
        # Keys and values that were there, whose birth is the first that its tape knows.
        self.found: list[Storage] = []

    def __call__(self, f: Forward, x: Value) -> Value:
        """The layer's output."""
        tape = f.tape
        tape.category = "kv_cache"
        old = [tape.leaf("prefix", self._axes, self._dtype) for _ in range(2)]
        tape.category = "activations"
        self._nodes = [v.node for v in old if v.node is not None]
        self.found = [v.storage for v in old]

        def store(new: tuple[Value, ...], window: int | None) -> tuple[Value, ...]:
            for part in new:
                # Joined, heads lie before tokens.
                B, heads, (_, tokens), width = by_heads(part)
                whole: Axes = (B, heads, ("S", tokens + self._axes[2][1]), width)
                tape.category = "kv_cache"
                self._cache.append(ops.cat((old[0], part), whole, "cache"))
                tape.category = "activations"
                del old[0]
            return tuple(v.view(v.axes) for v in self._cache)

        f.store = store
        y = self._run(f, x)
        f.store = None
        return y

    def let_go(self) -> list[Storage]:
        """What was cached; the model's output holds it, and this no more."""
        found = [v.storage for v in self._cache]
        self._cache.clear()
        return found

    def awaited(self) -> list[Storage]:
        """The gradients of what was there."""
        found = [g.storage for node in self._nodes for g in node.pending if g is not None]
        self._nodes.clear()
        return list(dict.fromkeys(found))


class Waiting:
    """The steps before all layers that made what a layer is handed (keys and values), as they wait for gradients."""

    def __init__(self, pairs: Sequence[Sequence[Value]]) -> None:
        self._places = [[(v.node, v.index, v.axes) for v in pair if v.node is not None] for pair in pairs]
        self.storages = [[v.storage for v in pair] for pair in pairs]

    def over(self, run: Callable[[Forward, Value], Value], prefix: tuple[Value, Value]) -> Prefixed:
        """What runs a layer that finds such keys and values."""
        return Prefixed(run, prefix)

    def wait(self, tape: Tape, gradients: list[list[Storage]]) -> list[Storage]:
        """Let the gradients of each layer's be there, the last layer's first; returns them as this tape has them."""
        found = []
        for places, storages in zip(reversed(self._places), reversed(gradients), strict=True):
            there = [tape.new(s.label, s.axes, s.dtype) for s in storages]
            found += [v.storage for v in there]
            for place, whole in zip(places, there, strict=True):
                node, index, axes = place
                node.pending[index] = whole.view(axes)
        return found
