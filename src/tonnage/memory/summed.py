"""What the layers share and hand gradients back to, added up over them until the steps that made it take the sum."""

from __future__ import annotations

from collections.abc import Callable

from tonnage.arch.forward import Forward
from tonnage.arch.model import Stack
from tonnage.arch.tape import Storage, Tape, Value


def highest(stack: Stack, f: Forward) -> int:
    """The highest layer that takes what all of them are handed: the last, or the last over what lies beside."""
    if f.encoder is None:
        return len(stack.layers) - 1
    crossing = (
        i for i, layer in enumerate(stack.layers) if any(getattr(s.block, "cross", False) for s in layer.sublayers)
    )
    return max(crossing, default=-1)


class Summed:
    """What layers share and hand a gradient back to: the nodes, where their gradients are added up."""

    def __init__(self, shared: list[Value]) -> None:
        self.places = [(v.node, v.index, v.axes, v.dtype) for v in shared if v.node is not None]

    def wait(self, tape: Tape) -> list[Storage]:
        """The sums of what the layers above have handed back are there."""
        found = []
        for node, index, axes, dtype in self.places:
            node.pending[index] = made = tape.new("gradient of what layers share", axes, dtype)
            found.append(made.storage)
        return found

    def taken(self) -> list[Storage]:
        """What is there; it is let go of."""
        found = [node.pending[index] for node, index, _, _ in self.places]
        for node, index, _, _ in self.places:
            node.pending[index] = None
        return [v.storage for v in found if v is not None]


class Watched:
    """A layer's forward pass that notes which shared storages its graph keeps."""

    def __init__(self, run: Callable[[Forward, Value], Value], f: Forward, shared: list[Storage]) -> None:
        self.run = run
        self.f = f
        self.owners = {s: s.owners for s in shared}
        self.kept: set[Storage] = set()

    def __call__(self, x: Value) -> Value:
        """The layer's output."""
        y = self.run(self.f, x)
        self.kept.update(s for s, n in self.owners.items() if s.owners > n)
        return y
