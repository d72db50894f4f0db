"""What a tape is written on: storages, values that share them, and weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tonnage.formats import FORMATS
from tonnage.tensors import Axes, size

if TYPE_CHECKING:
    from tonnage.arch.tape import Node, Tape

WIDTH: Final = {name: f.bytes for name, f in FORMATS.items()}


class Storage:
    """Bytes that live and die as one."""

    __slots__ = (
        "axes", "borrowed", "by_heads", "category", "dtype", "emptied", "follows", "label", "nbytes", "owners",
        "position", "serial", "tape", "viewed",
    )  # fmt: skip

    def __init__(self, tape: Tape, label: str, axes: Axes, dtype: str, category: str) -> None:
        self.tape = tape
        self.label = label
        self.axes = axes
        self.dtype = dtype
        self.category = category
        self.nbytes = size(axes) * WIDTH[dtype]
        self.owners = 0
        self.viewed = False
        # Its memory was let go of while tensors still share it; another's may have been put in its place.
        self.emptied = False
        self.borrowed: Value | None = None
        # Heads lie before tokens: whatever takes both as one axis has to lay it out anew.
        self.by_heads = False
        # A sum of so many gradients, which lies as the next one does that is added to it; 0 where that is known.
        self.follows = 0
        self.serial = len(tape.born)
        self.position = len(tape.events)
        tape.born.append(self)
        tape.events.append(self.serial)

    def __repr__(self) -> str:
        return f"<{self.label} {self.axes} {self.dtype} {self.nbytes} B>"


class Value:
    """A tensor as Python code holds it: a view of a storage, and where its gradient goes."""

    __slots__ = ("axes", "dtype", "expanded", "index", "laid", "node", "storage")

    def __init__(self, storage: Storage, axes: Axes, dtype: str, node: Node | None = None, index: int = 0) -> None:
        storage.owners += 1
        self.expanded = False
        # How rows lie that are not one behind the other: a "slice" of others, or "across", the last axis not innermost.
        self.laid = ""
        self.storage = storage
        self.axes = axes
        self.dtype = dtype
        self.node = node
        self.index = index

    def __del__(self) -> None:
        storage = self.storage
        storage.owners -= 1
        if not storage.owners:
            if storage.emptied:
                storage.borrowed = None
            else:
                storage.tape.events.append(~storage.serial)

    @property
    def tape(self) -> Tape:
        """Where its storage was born."""
        return self.storage.tape

    def view(self, axes: Axes) -> Value:
        """The same storage under other axes, on the same node."""
        return Value(self.storage, axes, self.dtype, self.node, self.index)

    def detached(self) -> Value:
        """The same storage outside the graph: what a node saves."""
        return Value(self.storage, self.axes, self.dtype)


class Parameter:
    """A weight: resident, so without a storage here; its gradient is one."""

    __slots__ = ("axes", "dtype", "name", "tape", "trained")

    def __init__(self, tape: Tape, name: str, axes: Axes, dtype: str, trained: bool) -> None:
        self.tape = tape
        self.name = tape.prefix + name
        self.axes = axes
        self.dtype = dtype
        self.trained = trained
