"""A block whose tensors and state are told, but not yet what its forward pass keeps and takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from tonnage.arch.forward import Forward
from tonnage.arch.model import Block
from tonnage.arch.tape import Value
from tonnage.errors import UnsupportedError
from tonnage.record import Record
from tonnage.tensors import Tensor


class Untraced(Record):
    """A known kind of block that its modelled code runs in another way, with tensors beside its own.

    Everything but the forward pass is that of the block inside: its cache, its window, its unused parameters.

    Args:
        block: the kind that the tensors and the state are those of.
        what: what is not modelled, for messages.
        beside: further tensors, named below the layer.
        idle: parameters that a token does not use, beside the block's.
        ahead: tokens that the model puts before every sequence and keeps (CPM-Ant's prompt).
        times: how often a pass runs the block, each time with a state of its own (HRM).
    """

    working_set_modelled: ClassVar[bool] = False
    """Whether the forward pass is modelled."""

    block: Block
    what: str
    beside: tuple[Tensor, ...] = ()
    idle: int = 0
    ahead: int = 0
    times: int = 1

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "block":
            raise AttributeError(name)
        return getattr(self.block, name)

    def weights(self) -> Iterator[Tensor]:
        """The block's tensors and those beside them."""
        yield from self.block.weights()
        yield from self.beside

    def unused(self) -> int:
        """Parameters that a token does not use."""
        unused = getattr(self.block, "unused", None)
        return self.idle + (unused() if unused is not None else 0)

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """The block's, for each time that it runs."""
        state = getattr(self.block, "state", None)
        if state is not None:
            for _ in range(self.times):
                yield from state(B, S)
                if self.ahead:
                    for t in state(B, self.ahead):
                        yield Tensor(f"{t.name} of the prompt", t.axes, "state")

    def forward(self, f: Forward, x: Value) -> Value:
        """Refused."""
        raise untold(self.what)


def untold(what: str, hint: str = "") -> UnsupportedError:
    """What is said where a forward pass is asked for that is not modelled."""
    return UnsupportedError(
        f"what {what} keeps and takes in a forward pass is not modelled yet",
        key="model_type",
        hint=hint or "parameters, weights and cache can be told: tonnage params, tonnage serve",
    )
