"""Objectives with a reference, to whose log-probabilities the policy's are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tonnage.arch.loss import Loss
from tonnage.arch.objectives.scored import Lengths
from tonnage.errors import InputError
from tonnage.estimate.objectives._objective import Asked, Parts
from tonnage.estimate.objectives._reading import ahead, beside, scored

REFERENCED: Final = ("resident", "adapter", "precomputed")
COMPARED: Final = ("reference", "completion_length")
PAIRED: Final = (*COMPARED, "rejected_length")


def compared(loss: Callable[[Lengths, bool], Loss], told: tuple[str, ...]) -> Callable[[Asked], Parts]:
    """An objective with a reference: its loss, and what the trained model's head tells beside."""

    def make(a: Asked) -> Parts:
        n = _lengths(a)
        made = loss(n, a.reference == "precomputed")
        if a.reference == "precomputed":
            why = "the pass that computes the reference's log-probabilities before training is not part of the step"
            return Parts(made, told=(why,))
        off = a.reference == "adapter"
        reading = ahead(a, scored(n, told if off else (), a.how), off=off)
        return Parts(made, (beside(a, "reference", reading),))

    return make


def _lengths(a: Asked) -> Lengths:
    """Tokens that are scored."""
    n, other = a.w.completion_length, a.w.rejected_length
    if other is None:
        return n
    if n is None:
        raise InputError(
            f"rejected_length = {other} without the length of what was chosen", key="rejected_length", value=other,
            hint="--completion-length N, of the chosen answers",
        )  # fmt: skip
    if max(n, other) >= a.recipe.tokens:
        key = "completion_length" if n >= other else "rejected_length"
        raise InputError(
            f"{key} = {max(n, other)} leaves no prompt in sequences of {a.recipe.tokens}", key=key, value=max(n, other),
            hint=f"--seq {max(n, other) + 512}",
        )  # fmt: skip
    return n if n == other else (n, other)
