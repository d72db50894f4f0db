"""Simple preference optimization: CPO's trainer without the likelihood of the chosen answers."""

from __future__ import annotations

from typing import Final

from tonnage.arch.objectives.preferences import Odds
from tonnage.estimate.objectives._objective import Objective, Parts

OBJECTIVE: Final = Objective("simpo", lambda a: Parts(Odds(how=a.how, likelihood=False)), 2)
