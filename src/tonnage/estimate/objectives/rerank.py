"""A cross-encoder: a query and a text are read as one sequence, and judged by one number.

As ``CrossEncoderTrainer`` of sentence-transformers 6.2 trains it with ``BinaryCrossEntropyLoss``.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.objectives.judged import Relevance
from tonnage.estimate.objectives._objective import Objective, Parts

TOLD: Final = "a query and a text are one sequence; each is judged by itself (BinaryCrossEntropyLoss)"
OBJECTIVE: Final = Objective("rerank", lambda a: Parts(Relevance(), told=(TOLD,)), head="judge", drops=True)
