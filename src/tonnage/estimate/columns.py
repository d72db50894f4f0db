"""A step whose texts go through the model in two passes, both of which are saved when the loss is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.arch.model import Model
from tonnage.estimate.moments import Moment
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.training import Step
from tonnage.memory.passes import level

FIRST: Final = "first texts"


def several(model: Model, recipe: Recipe) -> Step:
    """A step of more than one pass: of two columns, or of an actor and its critic."""
    if recipe.critic is None:
        return Columns(model, recipe)
    from tonnage.estimate.actor_critic import ActorCritic

    return ActorCritic(model, recipe)


class Columns(Step):
    """Two passes forward; back through the second, then the first, whose gradients are added to what is there."""

    def __init__(self, model: Model, recipe: Recipe) -> None:
        super().__init__(model, recipe)
        self.last = self.passes
        self.first = self.passed(model, accumulated=True)

    def moments(self) -> Iterator[Moment]:
        """Every instant in order."""
        self.passes = self.last
        yield from super().moments()
        self.passes = self.last

    def passing(self) -> Iterator[Moment]:
        """Forward and back, twice."""
        before = set(self.held)
        for _ in self.forward():
            """The same instants as the second pass has, lower by what this one leaves."""
        for key in [k for k in self.held if k not in before]:
            self.held[f"{FIRST} {key}"] = self.held.pop(key)
        kept = self.passes.tail.saved
        self.take(f"{FIRST} tail", "activations", "kept behind the layers", level(kept), kept)
        # The texts' hidden states are named until the loss is there.
        norm, last = self.model.decoder.norm, self.passes.layers[-1]
        named = [last.output] if norm is not None or not last.keeps_output else []
        self.take("states", "activations", "hidden states of the first texts", level(named), named)
        stages, H = yield from self.forward()
        self.drop("states")
        yield from self.backward(stages, H)
        for key in [k for k in self.held if k.startswith(FIRST)]:
            self.drop_all(key)
        self.passes = self.first
        for _ in self.forward():
            """What the first pass left is there again."""
        stages = [self.first.stem, *self.first.layers, self.first.tail]
        for moment in self.backward(stages, [level([below.output]) for below in stages[:-1]]):
            yield moment.but(name=f"{FIRST}: {moment.name}")
