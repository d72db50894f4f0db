"""What ``torch.profiler``'s ``export_memory_timeline`` writes: sums by category over time, or single events (``raw``).

``torch/profiler/_memory_profiler.py`` of pytorch 2.13: ``[times, sizes]`` with a leading zero in each row of sizes, or
``[time, action, bytes, category]`` in nanoseconds. Neither names tensors; the sums are exact, lives are not told.
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.history import UNTOLD, Book, History, Life, Pile
from tonnage.sources._frames import CATEGORIES
from tonnage.sources._unpack import EVENTS, whole, wrong

ORDER: Final = ("parameter", "optimizer_state", "input", "temporary", "activation", "gradient", "autograd_detail", "")
"""Categories by their number in the file; the last one is unknown."""
PREEXISTING: Final = 1
ACTIONS: Final = range(1, 5)
"""Preexisting, create, increment version, destroy."""


def name_of(category: int) -> str:
    """The component that a category stands for."""
    return CATEGORIES.get(ORDER[category], UNTOLD)


def history(value: Any, file: str) -> History:
    """Either of the two kinds.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(value, list) or not value:
        raise wrong(file, "no memory timeline: a list is expected")
    if len(value) == 2 and isinstance(value[1], list) and (not value[1] or isinstance(value[1][0], list)):
        return sums(value[0], value[1], file)
    return raw(value, file)


def raw(rows: list[Any], file: str) -> History:
    """Events. A tensor that gets a new version changes its category: it dies and is born again.

    The file does not say which tensor dies: of those of one size and category it is the youngest.
    """
    if len(rows) > EVENTS:
        raise wrong(file, f"more than {EVENTS:,} events")
    book, live, times = Book(), dict[tuple[int, int], list[int]](), list[int]()
    for position, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 4 or not all(map(whole, row)):
            raise wrong(file, f"event {position:,} is not time, action, bytes and category")
        time, action, change, category = row
        if action not in ACTIONS or not 0 <= category < len(ORDER):
            raise wrong(file, f"event {position:,} has an unknown action or category")
        same = live.setdefault((abs(change), category), [])
        if change >= 0 and action != len(ACTIONS):
            life = Life(change, name_of(category), ORDER[category] or "unknown")
            if action == PREEXISTING:
                same.append(position)
                book.live[position] = book.before(life)
                continue
            same.append(position)
            book.born(position, life)
        else:
            book.died(same.pop() if same else (position, "unseen"), -change)
        times.append(time)
    return _history(book, times, file, "torch.profiler memory timeline, raw events", 1)


def sums(times: Any, sizes: list[Any], file: str) -> History:
    """Sums by category: what one grows by is a life, which ends when it shrinks again."""
    width = len(ORDER) + 1
    if not isinstance(times, list) or len(times) != len(sizes) or len(sizes) * width > EVENTS:
        raise wrong(file, "a memory timeline has as many rows of sizes as times, and not too many")
    book, told = Book(), list[int]()
    piles = [Pile(book, Life(0, name_of(i), category or "unknown")) for i, category in enumerate(ORDER)]
    for position, (time, row) in enumerate(zip(times, sizes, strict=True)):
        if not whole(time) or not isinstance(row, list) or len(row) != width or not all(map(whole, row)):
            raise wrong(file, f"row {position:,} of the sizes is not a zero and {len(ORDER)} whole numbers")
        before = len(book.order)
        for pile, size in zip(piles, row[1:], strict=True):
            pile.to(size)
        told += [time] * (len(book.order) - before)
    return _history(book, told, file, "torch.profiler memory timeline, sums by category", 1000)


def _history(book: Book, times: list[int], file: str, kind: str, unit: int) -> History:
    earlier = len(book.earlier)
    first = next((t for t in times if t >= 0), 0)
    return History(
        kind=kind,
        file=file,
        device="",
        tier="requested",
        lives=book.lives,
        order=book.closed(),
        times=[0] * earlier + [max(t - first, 0) * unit for t in times] if times else (),
        begin=earlier,
        notes=("the file tells sums by category, and no tensors",),
    )
