"""Layers to whose input something is added that was seen before all layers, before the checkpoint of each.

The model's code adds it to the output of the layer below, which it names as it was until the next layer has returned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tonnage.arch.again import beside, nested
from tonnage.arch.forward import Forward
from tonnage.arch.sight.deep import Deep
from tonnage.arch.tape import Node, Storage, Value
from tonnage.errors import UnsupportedError
from tonnage.memory.prefixed import Waiting
from tonnage.memory.recompute import Recompute

Run = Callable[[Forward, Value], Value]


class Deepening:
    """The layers of a pass to which something is added.

    Args:
        deep: what was seen, for each of the first layers.
        layers: of the pass.

    Raises:
        UnsupportedError: all layers are among them.
    """

    def __init__(self, deep: Deep, layers: int) -> None:
        self._deep = deep
        self._node: Node | None = None
        self.flows = any(v.node is not None for v in deep.features)
        if len(deep.features) >= layers:
            raise UnsupportedError(
                f"features for {len(deep.features)} layers of {layers} are not modelled: the last layer has none",
                key="images",
            )  # fmt: skip
        above = layers - 1 - len(deep.features)
        self.places = Waiting([[], *([v] for v in deep.features), *([] for _ in range(above))])

    def ahead(self, index: int, way: Recompute | None) -> bool | None:
        """Whether the layer behind what is added to its input runs again; None where nothing is added."""
        return way is not None if 0 < index <= len(self._deep.features) else None

    def within(self, run: Run, ahead: bool | None) -> Run:
        """A layer's forward pass with what is added."""
        return run if ahead is None else partial(self._added, run, ahead)

    def _added(self, run: Run, again: bool, f: Forward, x: Value) -> Value:
        # One stands for all: they have one size.
        seen = self._deep.features[0]
        if seen.node is not None:
            # Its gradient waits for the steps before all layers.
            self._node = Node((), lambda _: (), (), 1)
            seen = Value(seen.storage, seen.axes, seen.dtype, self._node)
        x = self._deep.added(f, x, seen)
        return _again(run, f, x) if again else run(f, x)

    def let_go(self) -> None:
        """The layers are through, and what was seen with them."""
        del self._deep

    def awaited(self) -> list[Storage]:
        """The gradient of what was added to the layer at hand."""
        found = [] if self._node is None else [g.storage for g in self._node.pending if g is not None]
        self._node = None
        return found


def _again(run: Run, f: Forward, x: Value) -> Value:
    """The layer under a checkpoint, which holds what it was called with."""
    held = (*(v for pair in f.rotary.values() for v in pair), *f.masks.values())

    def ran(x: Value, *_: Value) -> Value:
        return run(f, x)

    return nested(ran, x, held) if f.nests else beside(ran, x, held, within=True)
