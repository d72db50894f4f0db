"""Steps over columns of texts, and over mini-batches of them, played to an allocator."""

from __future__ import annotations

from typing import Any

from tonnage.allocator.blocks import Block
from tonnage.allocator.caching import Allocator
from tonnage.arch.tape import Storage
from tonnage.estimate.cached import Cached
from tonnage.estimate.columns import FIRST, Columns
from tonnage.estimate.loading import Loading
from tonnage.estimate.player import Player
from tonnage.estimate.player_beside import read
from tonnage.estimate.player_joint import JointPlayer
from tonnage.estimate.playing import Joints, Own, Shared
from tonnage.memory.accounts import Account


class _First(Player):
    """The pass over the first texts, whose vectors the other pass compares."""

    def __init__(self, step: Columns, allocator: Allocator) -> None:
        super().__init__(step, allocator, None, step.first)
        self.of = step
        self.named = []
        self.states: list[Shared] = []
        self.vectors: list[Block] = []
        self.given: list[Block] = []

    def pause(self, start: int, own: Own, joints: Joints, casts: list[Block]) -> int:
        """The hidden states are named from here on."""
        kept = {s.serial for s in self.passes.tail.left_behind()}
        if self.of.model.decoder.norm is None:
            if self.of.names:
                joints[self.passes.tail.entered.serial].holders += 1
                self.states = [joints[self.passes.tail.entered.serial]]
        else:
            joints |= {n: Shared(own.pop(n), 2) for n in list(own) if n not in kept}
            self.states = [held for n, held in joints.items() if n != self.passes.tail.entered.serial]
        return super().pause(start, own, joints, casts)

    def settle(self, a: Account, own: Own, joints: Joints, *, away: bool) -> None:
        """Vectors are named as well."""
        if a is self.passes.tail:
            self.vectors = [own.pop(self.of.vectors.serial)]
        super().settle(a, own, joints, away=away)

    def begun(self, seed: Storage) -> Block:
        """What the other pass's loss has left."""
        return self.given.pop()


class ColumnsPlayer(JointPlayer):
    """Plays two passes, of which the second one's loss goes back through both."""

    def __init__(self, step: Columns, allocator: Allocator, loading: Loading | None = None) -> None:
        super().__init__(step, allocator, loading, step.last)
        self.first = _First(step, allocator)
        self.waiting: Any = None

    def forward(self) -> tuple[list[tuple[Own, Joints]], list[Shared]]:
        """Through the first texts, then the others."""
        self.lend(self.first)
        self.waiting = self.first.forward()
        self.back(self.first, "")
        found = super().forward()
        for held in self.first.states:
            self.drop(held)
        self.free(self.first.vectors)
        self.first.states, self.first.vectors = [], []
        return found

    def end(self, name: str) -> None:
        """The loss's backward pass leaves the gradient of the first vectors."""
        super().end(name)
        if name == "loss backward":
            self.first.given = [self.take(self.first.of.seed.nbytes)]

    def backward(self, left: list[tuple[Own, Joints]], streams: list[Shared]) -> None:
        """Back through the others, then the first."""
        super().backward(left, streams)
        self.lend(self.first)
        self.first.backward(*self.waiting)
        self.back(self.first, FIRST)


class CachedPlayer(Player):
    """Plays mini-batches: two of each kind, since those that follow find what these leave."""

    def __init__(self, step: Cached, allocator: Allocator, loading: Loading | None = None) -> None:
        super().__init__(step, allocator, loading)
        self.of = step
        # Gradients of the vectors of all texts, and what names of the mini-batch before hold.
        self.waiting: list[Block] = []

    def ahead(self) -> None:
        """What the first pass of a step goes back from."""
        self.compare()
        if self.of.adds:
            self.instants.clear()

    def forward(self) -> tuple[list[tuple[Own, Joints]], list[Shared]]:
        """A mini-batch; of a later pass, all are embedded first."""
        if self.of.adds and not self.fresh:
            self.compare()
        return super().forward()

    def compare(self) -> None:
        """Vectors of all texts, and the loss back to them."""
        self.free(self.waiting)
        step, reading = self.of, self.of.embedding()
        (vectors,) = reading.left
        many = -(-step.texts * step.recipe.columns // step.recipe.batch)
        self.thread(0)
        read(self, reading)
        self.workspace()
        held = [self.take(vectors.nbytes) for _ in range(many)]
        self.begin()
        read(self, reading)
        self.end("embedding forward")
        self.waiting = [self.take(vectors.nbytes) for _ in range(many)]
        tape = step.compared(vectors.dtype)
        self.begin()
        self.thread(1)
        own: Own = {}
        self.play(0, len(tape.events), own, {}, tape)
        self.end("similarities")
        self.free([*own.values(), *held])
        self.waiting += [self.take(n) for n in (vectors.nbytes, 4, 4)]

    def optimize(self, *, first: bool) -> None:
        """The mini-batches are through."""
        self.free(self.waiting)
        self.waiting = []
        super().optimize(first=first)
