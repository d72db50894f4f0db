"""A step whose texts go through the model in two passes, both of which are saved when the loss is there.

The first column of an example runs by itself; the others are joined and run as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.arch.model import Model
from tonnage.arch.objectives.embedded import Contrast, Pooled
from tonnage.estimate.moments import Moment
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.training import Step
from tonnage.memory.passes import level

FIRST: Final = "first texts"


def several(model: Model, recipe: Recipe) -> Step:
    """A step of more than one pass: of columns, in mini-batches, or of an actor and its critic."""
    if recipe.critic is not None:
        from tonnage.estimate.actor_critic import ActorCritic

        return ActorCritic(model, recipe)
    if recipe.cached is not None:
        from tonnage.estimate.cached import Cached

        return Cached(model, recipe)
    return Columns(model, recipe)


class Columns(Step):
    """Two passes forward; back through the second, then the first, whose gradients are added to what is there."""

    def __init__(self, model: Model, recipe: Recipe) -> None:
        # What the first column leaves behind the layers is its vectors.
        assert isinstance(recipe.loss, Contrast)
        self.recipe = recipe.but(loss=Pooled(bool(recipe.loss.dims)))
        self.model = model
        self.first = self.passed(model, accumulated=True)
        super().__init__(model, recipe.but(batch=recipe.batch * (recipe.columns - 1)))
        self.last = self.passes
        # What stands behind the first pass ends in its vectors, where the second pass's gradient arrives: it has no
        # loss of its own.
        tail = self.first.tail
        self.vectors, self.seed = self.first.loss[:2]
        tail.saved = [s for s in tail.saved if s is not self.vectors]
        tail.output = self.last.tail.output
        self.first.loss = [tail.output]

    @property
    def names(self) -> bool:
        """Whether the hidden states of the first texts are none that the graph holds."""
        return self.model.decoder.norm is not None or not self.first.layers[-1].keeps_output

    def moments(self) -> Iterator[Moment]:
        """Every instant in order."""
        self.passes = self.last
        yield from super().moments()
        self.passes = self.last

    def passing(self) -> Iterator[Moment]:
        """Forward and back, twice."""
        before = set(self.held)
        self.passes = self.first
        for _ in self.forward():
            """The same instants as the second pass has, lower by what this one leaves."""
        for key in [k for k in self.held if k not in before]:
            self.held[f"{FIRST} {key}"] = self.held.pop(key)
        kept = [s for s in self.first.tail.saved if s is not self.seed]
        self.take(f"{FIRST} tail", "activations", "kept behind the layers", level(kept), kept)
        # The texts' hidden states are named until the loss is there.
        named = [self.passes.layers[-1].output] if self.names else []
        self.take("states", "activations", "hidden states of the first texts", level(named), named)
        self.take("vectors", "activations", "vectors of the first texts", level([self.vectors]), [self.vectors])
        if not self.recipe.first_step:
            # It is there until the second pass's loss is.
            loss = [self.last.tail.output]
            self.take("loss before", "loss", "of the last pass", level(loss), loss)
        self.passes = self.last
        stages, H = yield from self.forward()
        self.drop("states")
        self.drop("vectors")
        for moment in self.backward(stages, H):
            yield moment
            if moment.name == "loss backward":
                self.take(f"{FIRST} gradient", "gradients", "of their vectors", level([self.seed]), [self.seed])
        self.drop_all("loss itself")
        for key in [k for k in self.held if k.startswith(FIRST)]:
            self.drop_all(key)
        self.passes = self.first
        for _ in self.forward():
            """What the first pass left is there again."""
        stages = [self.first.stem, *self.first.layers, self.first.tail]
        for moment in self.backward(stages, [level([below.output]) for below in stages[:-1]]):
            yield moment.but(name=f"{FIRST}: {moment.name}")
