"""Direct preference optimization: pairs of answers, the policy and a reference."""

from __future__ import annotations

from typing import Final

from tonnage.arch.preferences import DPO, TOLD
from tonnage.estimate.objectives._compared import PAIRED, REFERENCED, compared
from tonnage.estimate.objectives._objective import Objective

OBJECTIVE: Final = Objective("dpo", compared(DPO, TOLD), 2, "fused", REFERENCED, PAIRED)
