"""Kahneman-Tversky optimization: answers that were judged one by one, the policy and a reference."""

from __future__ import annotations

from typing import Final

from tonnage.arch.loss import Loss
from tonnage.arch.objectives.preferences import KTO, TOLD
from tonnage.arch.objectives.scored import Lengths
from tonnage.errors import UnsupportedError
from tonnage.estimate.objectives._compared import COMPARED, REFERENCED, compared
from tonnage.estimate.objectives._objective import Asked, Objective, Parts
from tonnage.releases import shown

OLDEST: Final = (1, 8)
TOGETHER: Final = (1, 9)
"""Releases of TRL: the first whose trainer is no experiment, and that from which on judgements stay together."""


def kto(a: Asked) -> Parts:
    """The policy and a reference.

    Raises:
        UnsupportedError: of a release whose trainer is an experiment.
    """
    if a.release < OLDEST:
        raise UnsupportedError(
            f"objective = kto as TRL {shown(a.release)} trains it is not modelled: its trainer was an experiment",
            key="objective", value="kto", hint="--stack trl --stack-version 1.8, or newer",
        )  # fmt: skip

    def loss(completion: Lengths, given: bool) -> Loss:
        return KTO(completion, given, a.how, a.release < TOGETHER)

    return compared(loss, TOLD[:2])(a)


OBJECTIVE: Final = Objective("kto", kto, 1, "fused", REFERENCED, COMPARED)
