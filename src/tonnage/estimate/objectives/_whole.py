"""Objectives as stacks run them whose trainers make all logits: LLaMA-Factory's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.objectives.whole import Alone, Compared, Judged, answers
from tonnage.arch.tape import Value
from tonnage.estimate.beside import Beside, resident
from tonnage.estimate.objectives._objective import Asked, Objective, Parts
from tonnage.estimate.objectives._reading import ahead

TOLD: Final = (
    "LLaMA-Factory's trainer makes all logits in fp32, which keep their names until the reference has run, and their "
    "log-softmax"
)


def _scores(f: Forward, head: Head, x: Value, ids: Value) -> list[Value]:
    """The reference's log-probabilities, as the policy's."""
    hand = [x]
    del x
    return [answers(f, head, hand.pop(), ids.axes)[1]]


def _compared(a: Asked) -> Parts:
    if a.reference == "adapter":
        return Parts(Compared(), (Beside("reference", reading=ahead(a, _scores, off=True)),), told=(TOLD,))
    # It is loaded in 16 bit, whatever the policy's weights are cast to.
    form = a.recipe.autocast or a.recipe.weights
    reading = ahead(a.but(recipe=a.recipe.but(weights=form)), _scores)
    return Parts(Compared(), (resident("reference", a.model, form, reading),), told=(TOLD,))


def _judged(a: Asked) -> Parts:
    form = a.recipe.autocast or a.recipe.weights
    # What autocast has cached of the policy's weights is there still.
    narrow = a.but(recipe=a.recipe.but(weights=form))
    own = Beside("policy, other answers", reading=ahead(narrow, _scores, own=True))
    if a.reference == "adapter":
        reading = ahead(a, _scores, off=True)
        first = Beside("reference", reading=reading)
    else:
        reading = ahead(narrow, _scores)
        first = resident("reference", a.model, form, reading)
    return Parts(Judged(), (own, first, Beside("reference, other answers", reading=reading)), told=(TOLD,))


def _alone(a: Asked) -> Parts:
    return Parts(Alone(), told=(TOLD,))


WAYS: Final[Mapping[str, Mapping[str, Objective]]] = {
    "llama-factory": {
        "dpo": Objective("dpo", _compared, 2, "full", ("resident", "adapter"), ("reference",)),
        "kto": Objective("kto", _judged, 1, "full", ("resident", "adapter"), ("reference",)),
        "orpo": Objective("orpo", _alone, 2),
        "simpo": Objective("simpo", _alone, 2),
    }
}
"""By stack and name. https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/src/llamafactory/train/ (dpo, kto)"""
