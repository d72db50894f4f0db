"""What a step's caller still holds of the model's output: logits, what was seen, keys and values, and their graph."""

from __future__ import annotations

from typing import Final

from tonnage.estimate.moments import Ledger
from tonnage.memory.passes import Pass, level

GRAPH: Final = " graph"
CACHE: Final = " cache"
KEPT: Final = "logits of all words at every token that is written"
TOLD: Final = " told"
BEFORE: Final = "outputs before"
"""Keys of what hangs on an output, of the cache and the rest in it, and of the output of the pass before, where the
loop still has it."""


class Outputs(Ledger):
    """A ledger of a step whose passes hand out an output."""

    passes: Pass

    def hold(self, key: str = "outputs") -> None:
        """The caller's output of a pass that is over, and what hangs on its graph."""
        p = self.passes
        self.take(key, "logits", "held by the caller", level(p.outputs), p.outputs)
        self.hold_rest(key)
        self.take(key + GRAPH, "activations", "embedding and its gradient, by the output's graph", level(p.graph),
                  p.graph)  # fmt: skip

    def hold_rest(self, key: str, *, graphless: bool = False) -> None:
        """What the caller's output holds beside logits: what was seen, keys and values, those of the graph left out."""
        p = self.passes
        cached = [s for a in p.layers if p.outputs and a.caches for s in (a.apart() if graphless else a.cached)]
        self.take(key + CACHE, "kv_cache", "held by the caller", level(cached), cached)
        told = p.told if p.outputs else []
        self.take(key + TOLD, "activations", "what was seen, held by the caller", level(told), told)
