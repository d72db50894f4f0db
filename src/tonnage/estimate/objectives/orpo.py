"""Odds ratio preference optimization: pairs of answers without a reference."""

from __future__ import annotations

from typing import Final

from tonnage.arch.objectives.preferences import Odds
from tonnage.estimate.objectives._objective import Objective, Parts

OBJECTIVE: Final = Objective("orpo", lambda a: Parts(Odds(how=a.how, odds=True)), 2)
