"""REINFORCE with the others of a group as baseline: GRPO's rollout, answers that are judged as one.

Reference: https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/ rloo_trainer.py, rloo_config.py
"""

from __future__ import annotations

from typing import Final

from tonnage.estimate.objectives._objective import Asked, Objective, Parts
from tonnage.estimate.objectives.grpo import ROLLED, rolled

GENERATIONS: Final = 2


def rloo(a: Asked) -> Parts:
    """The update after a rollout, whose log-probabilities are always made again before it."""
    return rolled(a, GENERATIONS, apart=True)


OBJECTIVE: Final = Objective("rloo", rloo, 1, "fused", ("resident", "adapter", "none"), ROLLED, drops=True)
