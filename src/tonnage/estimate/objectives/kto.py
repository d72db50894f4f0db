"""Kahneman-Tversky optimization: answers that were judged one by one, the policy and a reference."""

from __future__ import annotations

from typing import Final

from tonnage.arch.preferences import KTO, TOLD
from tonnage.estimate.objectives._compared import COMPARED, REFERENCED, compared
from tonnage.estimate.objectives._objective import Objective

OBJECTIVE: Final = Objective("kto", compared(KTO, TOLD[:2]), 1, "fused", REFERENCED, COMPARED)
