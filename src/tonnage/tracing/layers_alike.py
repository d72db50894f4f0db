"""Which layers of a model to trace, by what they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tonnage.tracing.spread import Unit

FEWEST: Final = 2
"""Copies that make it worth while."""


def repeated(kinds: Sequence[object], lead: int = 1) -> tuple[list[int], Unit] | None:
    """Which layers to trace, and the unit that repeats among them; None where it is not worth while.

    Args:
        kinds: of the layers, equal where they are alike.
        lead: units before the two that are compared, so that neither borders on what is not its like; after them
            stands at least one layer.
    """
    n = len(kinds)
    for period in range(1, n // 4 + 1):
        for start in range(n):
            end = start + period
            while end < n and kinds[end] == kinds[end - period]:
                end += 1
            # The last layer is followed by the norm: it stands apart.
            units = (min(end, n - 1) - start) // period
            times = units - lead - 2
            if times < FEWEST:
                continue
            stop = start + (lead + 2) * period
            kept = [*range(stop), *range(start + units * period, n)]
            return kept, Unit(first=start + (lead + 1) * period, period=period, times=times)
    return None
