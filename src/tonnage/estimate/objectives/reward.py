"""A reward model: pairs of answers, each judged by one number."""

from __future__ import annotations

from typing import Final

from tonnage.arch.objectives.judged import Reward
from tonnage.estimate.objectives._objective import Objective, Parts

OBJECTIVE: Final = Objective("reward", lambda a: Parts(Reward()), 2, head="judge")
