"""Events of tapes as an allocator gets them: blocks with their holders, instants, and workspaces of threads."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from tonnage.allocator.blocks import Block
from tonnage.allocator.caching import Allocator, OutOfMemory
from tonnage.timeline import Instant

if TYPE_CHECKING:
    from tonnage.arch.tape import Tape

Own = dict[int, Block]
"""Blocks of one stretch's storages, by their serial on the tape."""
Joints = dict[int, "Shared"]
"""Those that it shares with its neighbours: its input and output, the gradient that it is given."""


NONE: Final = frozenset[int]()


class Shared:
    """A block with several holders: freed when the last lets go."""

    __slots__ = ("block", "holders")

    def __init__(self, block: Block, holders: int = 1) -> None:
        self.block = block
        self.holders = holders


class Playing:
    """What plays.

    Args:
        allocator: that gets the events.
        tape: of the step.
        workspace: of one thread that multiplies matrices. [byte]
        beside: names of tensors that lie beside the model's own.
    """

    def __init__(self, allocator: Allocator, tape: Tape, workspace: int, beside: Set[str]) -> None:
        self.allocator = allocator
        self.tape = tape
        self.per_thread = workspace
        self.beside = beside
        # Of the storages of every tape that was played; one that is gone takes its own with it.
        self.sizes: WeakKeyDictionary[Tape, list[int]] = WeakKeyDictionary()
        self.grads: list[Block] = []
        # Whether this thread has not multiplied yet; the program's own goes forward, the engine's back.
        self.due = False
        self.threads = 0
        # Whether no gradient of an earlier pass is there.
        self.fresh = False
        self.instants: list[Instant] = []

    def thread(self, number: int) -> None:
        """This one runs from now on."""
        self.due = bool(self.per_thread) and number >= self.threads
        self.threads = max(self.threads, number + 1)

    def begin(self) -> None:
        """An instant begins."""
        self.allocator.peak_allocated = self.allocator.allocated

    def end(self, name: str) -> None:
        """It is over: the most that was allocated."""
        self.instants.append(Instant(name, self.allocator.peak_allocated))

    def take(self, nbytes: int) -> Block:
        """A block."""
        return self.allocator.malloc(nbytes)

    def drop(self, held: Shared) -> None:
        """One holder lets go."""
        held.holders -= 1
        if not held.holders:
            self.allocator.free(held.block)

    def free(self, blocks: Iterable[Block]) -> None:
        """Give blocks back."""
        for block in blocks:
            self.allocator.free(block)

    def outside(self, nbytes: int) -> None:
        """Memory that is none of the cache's comes, or goes where this is negative. [byte]"""
        a = self.allocator
        a.device.used += nbytes
        if a.device.capacity is not None and a.device.used > a.device.capacity:
            raise OutOfMemory(nbytes, nbytes, a.allocated, a.reserved)
        a.allocated += nbytes
        a.reserved += nbytes
        a.peak_allocated, a.peak_reserved = max(a.peak_allocated, a.allocated), max(a.peak_reserved, a.reserved)

    def workspace(self) -> None:
        """What a thread takes at its first matrix product, and keeps."""
        if self.due:
            self.due = False
            self.take(self.per_thread)

    def play(self, start: int, stop: int, own: Own, joints: Joints, tape: Tape | None = None) -> None:
        """Events of the step's tape, or of another, for one instance of its storages."""
        tape = tape or self.tape
        if (sizes := self.sizes.get(tape)) is None:
            sizes = self.sizes[tape] = [s.nbytes for s in tape.born]
        stays = self.stays(tape) if self.fresh else NONE
        self.run_events(tape.events[start:stop], sizes, own, joints, tape.products, stays)

    def stays(self, tape: Tape) -> Set[int]:
        """Gradients that stay if there are none yet, but for those that lie beside in any case."""
        if not self.beside:
            return tape.added.keys()
        return {n for n, of in tape.added.items() if f"{of}.grad" not in self.beside}

    def run_events(
        self,
        events: list[int],
        sizes: list[int],
        own: Own,
        joints: Joints,
        products: Set[int] = NONE,
        stays: Set[int] = NONE,
    ) -> None:
        """Births and deaths in order; what ``stays`` becomes a gradient that is kept."""
        malloc, free = self.allocator.malloc, self.allocator.free
        products = products if self.due else NONE
        for event in events:
            if event >= 0:
                if n := sizes[event]:
                    own[event] = malloc(n)
                    if event in products:
                        self.workspace()
            elif (block := own.pop(~event, None)) is not None:
                if ~event in stays:
                    self.grads.append(block)
                else:
                    free(block)
            elif ~event in joints:
                self.drop(joints.pop(~event))

    def unwind(self, start: int, stop: int, own: Own) -> None:
        """What a pass that was cut short lets go of: its deaths without its births."""
        for event in self.tape.events[start:stop]:
            if event < 0 and (block := own.pop(~event, None)) is not None:
                self.allocator.free(block)
