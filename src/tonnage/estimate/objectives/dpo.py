"""Direct preference optimization: pairs of answers, the policy and a reference."""

from __future__ import annotations

from typing import Final

from tonnage.arch.objectives.preferences import DPO, TOLD
from tonnage.estimate.objectives._compared import PAIRED, REFERENCED, compared
from tonnage.estimate.objectives._objective import Asked, Objective, Parts


def dpo(a: Asked) -> Parts:
    """The policy and a reference."""
    return compared(lambda completion, given: DPO(completion, given, a.how), TOLD)(a)


OBJECTIVE: Final = Objective("dpo", dpo, 2, "fused", REFERENCED, PAIRED)
