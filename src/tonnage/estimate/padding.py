"""Batches that are padded to their own longest sample: a range from a batch of the mean length to one of the longest.

The largest batch decides a run's peak, and which samples meet in it is chance: no batch is longer than the longest
sample, and one of them is at least as long as the mean. Both are answered, and the difference is taken off the lower
bounds of the lines that depend on tokens. What the allocator keeps from batches of other lengths is left out.
"""

from __future__ import annotations

from typing import Final

from tonnage.devices import Device
from tonnage.estimate.result import Result
from tonnage.estimate.verdict import fit
from tonnage.timeline import TIERS, Component, Rank

LASTING: Final = ("weights", "gradients", "master_weights", "optimizer_state", "workspace", "context")
"""Components that no batch changes; their lower bounds stay as they are while others can give."""


def padded(result: Result, shorter: Result, device: Device | None, in_use: int, mean: int) -> Result:
    """``result`` with the lower bounds of ``shorter``, the answer for batches of ``mean`` tokens.

    Args:
        result: of the longest batch; its figures stay the answer.
        shorter: of the same workload, with the mean length.
        device, in_use: as the verdict was made.
        mean: tokens. [token]
    """
    ranks = tuple(_between(a, b) for a, b in zip(result.ranks, shorter.ranks, strict=True))
    found = result.but(ranks=ranks, caveats=(*result.caveats, TOLD.format(mean=mean)))
    if result.fit is None or device is None:
        return found
    doubt = tuple(result.extras.get("incomplete", ()))
    return found.but(fit=fit(found.fullest, device, in_use, doubt=doubt))


TOLD: Final = "batches are padded to their own longest sample: the range begins at batches of {mean:,} tokens"


def _between(longest: Rank, shortest: Rank) -> Rank:
    components = list(longest.components)
    for tier in TIERS:
        over = _low(longest, tier) - _low(shortest, tier)
        order = sorted(range(len(components)), key=lambda i: (components[i].name in LASTING, -components[i].low_bytes))
        for i in order:
            c = components[i]
            if c.tier == tier and over > 0:
                less = min(over, c.low_bytes)
                over -= less
                components[i] = _lowered(c, less)
    return longest.but(components=tuple(components))


def _low(rank: Rank, tier: str) -> int:
    return sum(c.low_bytes for c in rank.components if c.tier == tier)


def _lowered(c: Component, less: int) -> Component:
    return c.but(low_bytes=c.low_bytes - less)
