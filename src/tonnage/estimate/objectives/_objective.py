"""What an objective is, what it is settled from, and what it makes of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tonnage.arch.loss import Loss
from tonnage.arch.model import Model
from tonnage.arch.objectives.selected import Way, way
from tonnage.estimate.beside import Beside
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.rollout import Rollout
from tonnage.record import Record
from tonnage.releases import Version
from tonnage.workload.training import Train


class Asked(Record):
    """What an objective is settled from.

    Args:
        model: that is trained.
        w: the workload.
        recipe: of a step on the next token.
        beside: models that the workload names, by the key that names them.
        reference: where the reference's numbers come from.
        rows: sequences of a pass.
        memory: of the device; None where none is named. [byte]
        release: of TRL, whose trainer it is.
    """

    model: Model
    w: Train
    recipe: Recipe
    beside: Mapping[str, Model]
    reference: str
    rows: int
    memory: int | None = None
    release: Version = (1, 16)

    @property
    def how(self) -> Way:
        """How the trainer takes log-probabilities."""
        return way(self.release)


class Parts(Record):
    """What it makes of it.

    Args:
        loss: of the step.
        others: models that lie beside.
        rollout: what comes before the update.
        columns: of texts in an example.
        cached: examples of a step, and texts of a mini-batch; None where a batch runs as one.
        critic: a model that is trained beside, and its part of the step.
        empties: where its trainer gives the allocator's cache back, as the recipe has it.
        values: keys of the workload that were left open.
        told: what has to be said.
        left_out: what is not modelled.
    """

    loss: Loss
    others: tuple[Beside, ...] = ()
    rollout: Rollout | None = None
    columns: int = 1
    cached: tuple[int, int] | None = None
    critic: tuple[Model, Recipe] | None = None
    empties: frozenset[str] = frozenset()
    values: Mapping[str, Any] = {}
    told: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


class Objective(Record):
    """A way of training.

    Args:
        name: as users say it.
        make: settles it.
        rows: sequences that a batch of 1 has.
        named: how the loss goes through the head, as a result repeats it.
        references: where the reference's numbers may come from; the first where nothing is said.
        keys: of ``OBJECTIVE_KEYS``, those that it takes.
        head: of the model: of its words, a classifier's with one label, or none.
        drops: dropout stays on.
    """

    name: str
    make: Callable[[Asked], Parts]
    rows: int = 1
    named: str = "full"
    references: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    head: str = "causal"
    drops: bool = False
