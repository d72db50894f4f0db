"""Embeddings: pairs of texts, the others of a batch as what does not fit."""

from __future__ import annotations

from typing import Final

from tonnage.arch.embedded import Contrast
from tonnage.estimate.objectives._objective import Objective, Parts

TOLD: Final = "the texts of a pair run one after the other, and both are kept"
OBJECTIVE: Final = Objective("embed", lambda a: Parts(Contrast(), columns=2, told=(TOLD,)), head="none")
