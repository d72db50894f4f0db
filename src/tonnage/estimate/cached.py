"""A step of mini-batches whose loss is of the whole batch (GradCache, arXiv:2101.06983).

Every mini-batch is embedded without a graph; the loss of all vectors is run back to them, some rows of it at a time;
then every mini-batch is embedded again, and goes back from the gradients of its vectors. Between the mini-batches the
gradients of the weights are added up.

Reference: https://github.com/UKPLab/sentence-transformers/blob/v6.2.0/sentence_transformers/base/losses/gradcache.py
"""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.model import Model
from tonnage.arch.objectives.embedded import pooled, similarities
from tonnage.arch.tape import Tape, Value
from tonnage.estimate.moments import Moment
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.training import Step
from tonnage.memory.ahead import Ahead
from tonnage.memory.passes import Pass, Span, level


class Cached(Step):
    """One step: ``recipe.batch`` is of a mini-batch, ``recipe.cached`` that of the step."""

    def __init__(self, model: Model, recipe: Recipe) -> None:
        assert recipe.cached is not None
        self.texts, self.form_of_vectors = recipe.cached, recipe.weights
        super().__init__(model, recipe)

    @property
    def adds(self) -> bool:
        """Whether gradients of earlier passes are there."""
        return self.recipe.accumulate > 1 or self.recipe.keep_gradients

    def embedding(self) -> Ahead:
        """The pass of a mini-batch without a graph."""
        r = self.recipe
        return Ahead(
            self.model, _vectors, batch=r.batch, tokens=r.tokens, kernel=r.kernel, weights=r.weights,
            autocast=r.autocast, casts=True, tuning=r.tuning, makes_mask=r.makes_mask,
        )  # fmt: skip

    def compared(self, form: str) -> Tape:
        """The loss of all vectors, back to them."""
        tape, r = Tape(grad=True, weights=form), self.recipe
        rest, width = self.texts * (r.columns - 1), self.model.decoder.stem.D
        similarities(tape, min(r.batch, self.texts), self.texts, rest, width, form)
        return tape

    def passed(self, model: Model, *, accumulated: bool) -> Pass:
        """The pass of a mini-batch that is not the first."""
        return super().passed(model, accumulated=True)

    def moments(self) -> Iterator[Moment]:
        """Every instant in order."""
        self.static()
        r, p = self.recipe, self.passes
        if self.adds:
            self.take("gradients before", "gradients", "of earlier passes", self.grown)
        self.take("inputs", "inputs", "token ids", level(p.inputs), p.inputs)
        if not r.first_step:
            self.take("loss before", "loss", "of the last pass", level([p.tail.output]), [p.tail.output])
        yield from self._compared()
        if not self.adds:
            self.take("gradients before", "gradients", "of earlier mini-batches", self.grown)
        # Its name stands for one mini-batch after the other; so do those of two numbers.
        vectors = [p.tape.new("vectors", (("B", r.batch), ("D", self.model.decoder.stem.D)), self.form_of_vectors)]
        numbers = [p.tape.new("number", (), "fp32") for _ in range(2)]
        named = [v.storage for v in (*vectors, *numbers)]
        self.take("named", "activations", "vectors of the mini-batch before", level(named), named)
        yield from self.passing()
        self.drop("named")
        self.drop("cached")
        yield from self._stepping()

    def _compared(self) -> Iterator[Moment]:
        """Vectors of all texts, and the loss back to them."""
        reading = self.embedding()
        form = self.form_of_vectors = reading.left[0].dtype
        rows, width = self.texts * self.recipe.columns, self.model.decoder.stem.D
        tape = self.compared(form)
        vectors = Tape(grad=False, weights=form).new("vectors", (("B", rows), ("D", width)), form)
        self.take("vectors", "activations", "vectors of all texts", level([vectors.storage]), [vectors.storage])
        yield from self.reading("embedding", reading)
        self.take("cached", "gradients", "of the vectors of all texts", level([vectors.storage]), [vectors.storage])
        span = Span(tape, 0, len(tape.events), 0)
        yield Moment("similarities", self.now + span.peak, span)
        self.drop("vectors")


def _vectors(f: Forward, head: Head, x: Value, ids: Value) -> list[Value]:
    hand = [x]
    del x
    return [pooled(f.tape, hand.pop())]
