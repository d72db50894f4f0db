"""The largest number for which something still holds: contexts, sequences."""

from __future__ import annotations

from collections.abc import Callable


def most_that(holds: Callable[[int], bool], most: int) -> int:
    """The largest number up to ``most`` for which ``holds`` is true; 0 when it never is.

    >>> most_that(lambda n: n * n <= 50, 100)
    7
    """
    if not holds(1):
        return 0
    low, high = 1, 2
    while high <= most and holds(high):
        low, high = high, high * 2
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
