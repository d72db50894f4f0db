"""Objectives with a reference, to whose log-probabilities the policy's are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tonnage.arch.loss import Loss
from tonnage.estimate.objectives._objective import Asked, Parts
from tonnage.estimate.objectives._reading import ahead, beside, scored

REFERENCED: Final = ("resident", "adapter", "precomputed")
COMPARED: Final = ("reference", "completion_length")


def compared(loss: Callable[[int | None, bool], Loss], told: tuple[str, ...]) -> Callable[[Asked], Parts]:
    """An objective with a reference: its loss, and what the trained model's head tells beside."""

    def make(a: Asked) -> Parts:
        n = a.w.completion_length
        made = loss(n, a.reference == "precomputed")
        if a.reference == "precomputed":
            why = "the pass that computes the reference's log-probabilities before training is not part of the step"
            return Parts(made, told=(why,))
        off = a.reference == "adapter"
        reading = ahead(a, scored(n, told if off else ()), off=off)
        return Parts(made, (beside(a, "reference", reading),))

    return make
