"""What an optimizer's step takes for a moment, stated as its code binds names.

A step that goes from parameter to parameter is a loop in Python: a name of the last turn lives until this turn binds it
anew, and what an expression makes on the way lives until its end. Scalars are left out where nothing else is alive.

References: torch v2.13.0 torch/optim/ (_muon.py, _adafactor.py, adamw.py), transformers v5.23.0 optimization.py
(Adafactor), came-pytorch 0.1.3, galore-torch 1.0 adamw.py, apollo-torch 1.0.3 apollo.py, lion-pytorch 0.2.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from math import prod
from typing import Final

from tonnage.tensors import Tensor

GALORE_RANK: Final = 128
"""Rank of the projections of GaLore and APOLLO, as the Trainer asks for them."""
OUTSIDE: Final = ("embedding", "position", "head")
"""Roles of matrices that lie in no layer."""

Trained = Iterable[tuple[Tensor, int, int]]
"""Parameters in the order of the model, each with the bytes of an element and how often it stands."""
Group = Iterator[list[int]]
"""What a step holds at once for a moment: sizes, one group after the other. [byte]"""
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


def adamw(t: Tensor, width: int) -> Iterator[Bound]:
    """A root, a quotient of it, and that plus epsilon, which keeps its name."""
    n = t.numel * width
    yield "denom", n, (n,)


def adafactor(t: Tensor, width: int) -> Iterator[Bound]:
    """transformers' Adafactor, in fp32."""
    n, copy = 4 * t.numel, 4 * t.numel if width < 4 else 0
    yield "grad", copy, ()
    yield "p_data_fp32", copy, ()
    yield "", 4, (4,)
    yield from _squared(t, n)
    yield "", n, ()


def came(t: Tensor, width: int) -> Iterator[Bound]:
    """CAME, in fp32: the update, its instability, and what the instability makes of the momentum."""
    n = 4 * t.numel
    yield "grad", n if width < 4 else 0, ()
    yield "", width, (width,)
    yield from _squared(t, n)
    yield "res", n, (n,)
    if len(t.shape) > 1:
        yield from _factored(t, n, "res_approx")
        yield "update", 0, ()
    else:
        yield "update", n, ()
    yield "", n, ()


def _squared(t: Tensor, n: int) -> Iterator[Bound]:
    """The gradient's squares, and the update that their sums make of it."""
    yield "update", n, (n,)
    if len(t.shape) > 1:
        yield from _factored(t, n, "update")
    else:
        yield "update", n, ()


def _factored(t: Tensor, n: int, name: str) -> Iterator[Bound]:
    """The product of the roots of sums over rows and over columns."""
    *outer, columns = t.shape
    rows, lead = 4 * prod(outer), prod(outer[:-1])
    yield "", rows, ()
    yield "", 4 * lead * columns, ()
    yield "", rows, (4 * lead,)
    yield name, n, (rows, 4 * lead * columns)


def adafactor_torch(t: Tensor, width: int) -> Iterator[Bound]:
    """torch's Adafactor, in the parameter's format."""
    n, lead = t.numel * width, width
    if len(t.shape) > 1:
        *outer, columns = t.shape
        rows, lead = prod(outer) * width, prod(outer[:-1]) * width
        yield "row_mean", rows, ()
        yield "col_mean", lead * columns, ()
    else:
        yield "grad_squared", n, ()
    yield "var_estimate", n, ()
    yield "", lead, ()
    # Rooted in place: the same tensor under a second name, which holds it through the next turn's first half.
    yield "var_estimate", 0, ()
    yield "update", n, ()


def muon(t: Tensor, width: int) -> Iterator[Bound]:
    """Newton-Schulz in bf16: the update, and products of its shorter side with itself."""
    n, short = t.numel, min(t.shape)
    gram, rough = 2 * short * short, 2 * n
    yield "update", n * width, ()
    first = rough if width != 2 else 0
    yield "ortho", first, ()
    for _ in range(2):
        yield "gram", gram, ()
        yield "gram_update", gram, ()
        yield "ortho", rough, ()
    # The function returns what the update's name is bound to from then on.
    yield "update", rough, ()
    for name in ("ortho", "gram", "gram_update"):
        yield name, 0, ()


def projected(t: Tensor) -> int:
    """Elements of a matrix's projection to the rank, on its longer side."""
    return max(t.shape) * min(GALORE_RANK, *t.shape)


def galore(t: Tensor, width: int) -> Iterator[Bound]:
    """Adam in the projection, and the update projected back and scaled."""
    n, low = t.numel * width, projected(t) * width if is_linear(t) else 0
    yield "grad", low, ()
    yield "denom", low or n, ()
    yield "norm_grad", low or n, ()
    if low:
        yield "norm_grad", n, (n,)


def apollo(t: Tensor, width: int) -> Iterator[Bound]:
    """Adam in the projection; the gradient is scaled by the norms of its rows, and held to the growth of its own."""
    n, longer = t.numel * width, max(t.shape) * width
    low = longer * GALORE_RANK if is_linear(t) else 0
    yield "grad", low, ()
    yield "denom", low or n, ()
    yield "norm_grad", low or n, ()
    if low:
        yield "factor", longer, (longer, longer)
        yield "scaled_grad", n, ()
        yield "scaled_grad_norm", width, ()
        yield "limiter", width, (width,)
        yield "scaled_grad", n, ()
        yield "norm_grad", 0, ()
