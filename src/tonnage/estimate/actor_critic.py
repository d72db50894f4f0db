"""A step that trains two models at once: an actor, and a critic whose pass runs before the actor's.

The critic's graph waits while the actor runs forward and back, and its own backward pass comes last. What the two hand
out beside what is asked for (hidden states, what they cache) is named until the next pass begins.

Reference: https://github.com/huggingface/trl/blob/v1.12.0/trl/experimental/ppo/ppo_trainer.py (PolicyAndValueWrapper,
train)
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator
from itertools import pairwise
from typing import Final, TypeVar

from tonnage.arch.model import Model
from tonnage.arch.objectives.actor_critic import Clipped, placed
from tonnage.estimate.moments import Moment
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.training import Step
from tonnage.memory.accounts import Account, Span, blocks, level, stored, summed
from tonnage.memory.weights import bytes_of, is_buffer
from tonnage.tensors import Tensor
from tonnage.timeline import Level

CRITIC: Final = "critic"
HANDED: Final = "handed"
OLD: Final = "old handed"
"""Keys of what only names hold, of this pass and of the one before."""
Walk = Generator[Moment, None, tuple[list[Account], list[Level]]]
T = TypeVar("T")


class ActorCritic(Step):
    """The actor is the step's own model.

    Args:
        model: the actor.
        recipe: of its step; ``critic`` has the other one.
    """

    def __init__(self, model: Model, recipe: Recipe) -> None:
        super().__init__(placed(model), recipe)
        assert recipe.critic is not None
        model, own = recipe.critic
        self.critic = Step(model, own)
        for passes in (self.passes, self.critic.passes):
            for a in passes.layers:
                a.cached = stored(passes.tape, a)
        for a in dict.fromkeys(self.passes.layers):
            # The caller still names keys and values when the graph lets go of them.
            if held := [s for s in a.cached if s in a.left_behind()]:
                a.backward = a.backward.holding(held)
        self.trained = [*self.trained, *self.critic.trained]
        self.grown = self.grown + self.critic.grown
        self.state = self._state(recipe.optimizer.resident)
        self.state += summed((n, 1) for n in recipe.optimizer.tables(self.widths()))
        self.paged = self._state(recipe.optimizer.outside)

    def in_order(self) -> Iterator[Tensor]:
        """What is trained of the actor, then of the critic."""
        yield from super().in_order()
        if self.recipe.tuning is None and hasattr(self, "critic"):
            yield from self.critic.in_order()

    def static(self) -> Level:
        """Begin with what is resident between steps."""
        super().static()
        self.take(CRITIC, "weights", CRITIC, self.critic.weights)
        buffers, _ = bytes_of(self.critic.groups, self.critic.form, is_buffer)
        self.take(f"{CRITIC} buffers", "other:buffers", f"{CRITIC} buffers", buffers)
        return self.now

    @contextlib.contextmanager
    def _criticized(self) -> Iterator[None]:
        """The step is the critic's for a while."""
        own = self.model, self.recipe, self.passes
        self.model, self.recipe, self.passes = self.critic.model, self.critic.recipe, self.critic.passes
        try:
            yield
        finally:
            self.model, self.recipe, self.passes = own

    def passing(self) -> Iterator[Moment]:
        """Forward through both, back through the actor, then the critic."""
        if self.recipe.accumulate > 1:
            # Names of the pass before: the last are let go of when this pass's statistics are there.
            self._hand(OLD, range(len(self.passes.layers)))
            for a in self.passes.layers:
                cache = level(a.cached)
                self.take(f"{OLD} cache {id(a)}", "kv_cache", "handed out by the pass before", cache, a.cached)
            self.take(f"{OLD} outputs", "logits", "handed out by the pass before", level(self.passes.outputs))
            self.take("old shares", "logits", "shares of words, of the pass before", self.table())
        before = set(self.held)
        self.hands = True
        with self._criticized():
            waiting = yield from _named(self.forward())
            kept = self.passes.tail.saved
            self.take("tail", "activations", "kept behind the layers", level(kept), kept)
        for key in [k for k in self.held if k not in before]:
            self.held[f"{CRITIC} {key}"] = self.held.pop(key)
        stages, H = yield from self._acting()
        self.hands = False
        yield from self._back(stages, H)
        self.drop_all("outputs")
        self.take(f"{HANDED} outputs", "logits", "handed out by the actor", level(self.passes.outputs))
        self.held["loss of both"] = self.held.pop("loss itself")
        with self._criticized():
            for key in [k for k in self.held if k.startswith(f"{CRITIC} ") and self.held[k].count]:
                if key != f"{CRITIC} buffers":
                    self.held[key.removeprefix(f"{CRITIC} ")] = self.held.pop(key)
            self.drop("tail")
            for moment in self.backward(*waiting):
                yield moment.but(name=f"{CRITIC}: {moment.name}")

    def _acting(self) -> Walk:
        """The actor's forward pass. Through its layers and head, what the critic handed out is still named."""
        run, p = self.forward(), self.passes
        while True:
            try:
                moment = next(run)
            except StopIteration as done:
                found: tuple[list[Account], list[Level]] = done.value
                return found
            if moment.name == "loss":
                tail = p.tail.forward
                head = Span(p.tape, tail.start, p.tape.pauses[0][0], p.tail.entered.serial)
                yield Moment("head", moment.level - tail.peak + head.peak, head)
                there = self.now
                for key in [k for k in self.held if k.startswith((f"{CRITIC} {HANDED}", OLD))]:
                    self.drop_all(key)
                moment = moment.but(level=moment.level + (self.now - there))
            yield moment

    def _back(self, stages: list[Account], H: list[Level]) -> Iterator[Moment]:
        """The actor's backward pass, behind which its hidden states and its cache stay."""
        at = len(stages) - 1
        streams = {i for i, (below, above) in enumerate(pairwise(stages)) if below.keeps_output or above.keeps_input}
        for moment in self.backward(stages, H):
            yield moment
            # What a layer was given was part of the graph until now.
            if 0 < at < len(stages) - 1:
                if at - 1 in streams:
                    self._hand(HANDED, [at - 1])
                a = stages[at]
                kept = [s for s in a.cached if s in a.left_behind()]
                self.take(f"{HANDED} with graph {id(a)}", "kv_cache", "keys and values handed out", level(kept), kept)
            at -= 1

    def _hand(self, key: str, layers: Iterable[int]) -> None:
        """Inputs of these layers."""
        for i in layers:
            given = self.passes.stem.output if not i else self.passes.layers[i - 1].output
            self.take(f"{key} {given.dtype}", "activations", "hidden states handed out", level([given]), [given])

    def table(self) -> Level:
        """A table of the words of the answers of a pass."""
        (logits, *_), loss = self.passes.outputs, self.recipe.loss
        assert isinstance(loss, Clipped)
        n = logits.nbytes // self.recipe.tokens * loss.completion
        return Level(n, blocks(n))

    def _stepping(self) -> Iterator[Moment]:
        yield from super()._stepping()
        for key in [k for k in self.held if k.startswith("gradients")]:
            self.drop_all(key)
        for _ in range(2):
            self.take("shares", "logits", "shares of words, and their products with logits", self.table())
        yield Moment("statistics", self.now)
        self.drop_all("shares")


def _named(run: Generator[Moment, None, T]) -> Generator[Moment, None, T]:
    """Moments of the critic's, by name."""
    while True:
        try:
            moment = next(run)
        except StopIteration as done:
            found: T = done.value
            return found
        yield moment.but(name=f"{CRITIC}: {moment.name}")
