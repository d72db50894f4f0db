"""A training step whose pass is on one tape: its instants are those of the tape's parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from tonnage.allocator.blocks import Block
from tonnage.estimate.moments import Moment
from tonnage.estimate.outputs import BEFORE, GRAPH
from tonnage.estimate.player import Player
from tonnage.estimate.playing import Own, Shared
from tonnage.estimate.training import Step
from tonnage.memory.one_tape import OneTape
from tonnage.memory.passes import level


class TapedStep(Step):
    """One step; what a subclass has as ``passes`` is on one tape."""

    taped = True

    def passing(self) -> Iterator[Moment]:
        """Forward and back."""
        p = cast(OneTape, self.passes)
        for name, span in p.spans(p.parts):
            if name == "loss backward":
                self.drop_all("loss before")
                self.drop_all(BEFORE)
                self.drop_all(BEFORE + GRAPH)
            yield Moment(name, self.now + span.peak, span)
        loss = [p.tail.output, *p.context]
        self.take("loss itself", "loss", "the loss itself", level(loss), loss)
        left = [] if p.tape.accumulated or p.tape.stepping is not None else p.grown
        self.take("gradients", "gradients", "parameters", level(left))
        if self.recipe.keep_step:
            self.hold()


class TapedPlayer(Player):
    """Plays such a step to an allocator."""

    def forward(self) -> tuple[list[Any], list[Shared]]:
        """Up to the loss."""
        p = cast(OneTape, self.run.passes)
        self.thread(0)
        self.own: Own = {}
        for part in p.parts[: p.turn]:
            self.begin()
            self.play(part.start, part.stop, self.own, {})
            self.end(part.name)
        self.workspace()
        self.free([*self.loss, *self.outputs])
        self.loss: list[Block] = []
        self.outputs: list[Block] = []
        self.empty("forward")
        return [], []

    def backward(self, left: list[Any], streams: list[Shared]) -> None:
        """From the loss down; gradients of what is trained stay."""
        p = cast(OneTape, self.run.passes)
        self.thread(1)
        for part in p.parts[p.turn :]:
            self.begin()
            self.play(part.start, part.stop, self.own, {})
            self.end(part.name)
        self.workspace()
        self.loss = [self.own.pop(s.serial) for s in (p.tail.output, *p.context)]
        self.outputs = [self.own.pop(s.serial) for s in (*p.outputs, *p.graph)]
        stays = self.stays(p.tape) if self.fresh else {s.serial for s in p.grown}
        self.grads += [self.own.pop(n) for n in list(self.own) if n in stays]
        self.free(self.own.values())
        self.own.clear()
        self.let_go()
