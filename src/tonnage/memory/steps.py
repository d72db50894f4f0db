"""What an optimizer's step takes for a moment, stated as its code binds names.

A step that goes from parameter to parameter is a loop in Python: a name of the last turn lives until this turn binds it
anew, and what an expression makes on the way lives until its end. Scalars are left out where nothing else is alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Final, NamedTuple

from tonnage.tensors import Tensor

OUTSIDE: Final = ("embedding", "position", "head")
"""Roles of matrices that lie in no layer."""

Trained = Iterable[tuple[Tensor, int, int]]
"""Parameters in the order of the model, each with the bytes of an element and how often it stands."""


class Replaced(NamedTuple):
    """A parameter's gradient gives way to another tensor, which stays as long as gradients do: sizes. [byte]"""

    was: int
    now: int


Group = Iterator[list[int] | Replaced]
"""What a step holds at once for a moment: sizes, one group after the other; between them, what gives way. [byte]"""
Bound = tuple[str, int, tuple[int, ...]]
"""A name, what is bound to it (0 where that is no new tensor), and what lives only until it is. [byte]"""
Turn = Callable[[Tensor, int], Iterator[Bound]]
"""What one parameter's turn binds, in order; an empty name is dropped at once."""
Kind = Callable[[Tensor], bool]


def is_matrix(t: Tensor) -> bool:
    """Whether a parameter is a matrix in a layer."""
    return len(t.shape) == 2 and t.role not in OUTSIDE


def is_linear(t: Tensor) -> bool:
    """Whether it is that of a linear module in a layer: routers are modules of their own."""
    return is_matrix(t) and t.role != "router"


def clipped(trained: Trained) -> Group:
    """``clip_grad_norm_``: the norm of each gradient, all in a row, and that of the row.

    Reference: torch v2.13.0 torch/nn/utils/clip_grad.py (``_get_total_norm``, with foreach).
    """
    norms = [width for _, width, times in trained for _ in range(times)]
    if norms:
        yield [*norms, sum(norms), max(norms)]


def nothing(trained: Trained) -> Group:
    """All in place."""
    yield from ()


def all_at_once(sets: int) -> Callable[[Trained], Group]:
    """A foreach step: so many tensors of every parameter's size at the same time."""

    def step(trained: Trained) -> Group:
        yield [t.numel * width for t, width, times in trained for _ in range(times * sets)]

    return step


def each(narrow: int) -> Callable[[Trained], Group]:
    """One parameter after the other, by a function of its own, whose tensors end with it."""

    def step(trained: Trained) -> Group:
        for t, width, _ in trained:
            yield [t.numel * width] * narrow

    return step


def looped(turn: Turn, *, only: Kind | None = None, last: Kind | None = None) -> Callable[[Trained], Group]:
    """A loop over the parameters.

    Args:
        turn: of one parameter.
        only: which are stepped; the others are left to another optimizer.
        last: which stand in a group of their own, behind the others.
    """

    def step(trained: Trained) -> Group:
        held: dict[str, int] = {}
        for t, width in _in_turn(trained, only, last):
            for name, size, passing in turn(t, width):
                yield [*(n for n in held.values() if n), size, *passing]
                if name:
                    held[name] = size

    return step


def _in_turn(trained: Trained, only: Kind | None, last: Kind | None) -> Iterator[tuple[Tensor, int]]:
    """Parameters as a loop meets them; two alike layers are enough to have one behind the other."""
    order = [
        (t, width)
        for times, group in groupby(trained, lambda entry: entry[2])
        for members in (list(group),)
        for _ in range(min(times, 2))
        for t, width, _ in members
        if only is None or only(t)
    ]
    if last is not None:
        order.sort(key=lambda entry: last(entry[0]))
    yield from order
