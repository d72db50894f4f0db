"""Optimizers that keep moments of a matrix' projection.

References: galore-torch 1.0 adamw.py, adamw8bit.py, apollo-torch 1.0.3 apollo.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tonnage.memory import steps
from tonnage.memory.optimizers import Optimizer, Stored, like
from tonnage.memory.optimizers.eight_bit import TWO, kept, maps, norm, small
from tonnage.memory.steps import Bound, Group, Replaced, Trained, Turn, is_linear
from tonnage.tensors import Tensor

SVD: Final = "the decompositions of gradients that the optimizer makes every few hundred steps"
RANK: Final = 128
"""Rank of the projections of GaLore and APOLLO, as the Trainer asks for them."""

State = Callable[[Tensor], Iterator[Stored]]


def narrowed(t: Tensor, rank: int) -> int:
    """The rank of a matrix's projection by its singular vectors: no more than there are."""
    return min(rank, *t.shape)


def _galore(rank: int) -> State:
    """Moments of a matrix's projection to some rows or columns, and the projection."""
    return lambda t: _low_rank(t, narrowed(t, rank) if is_linear(t) else 0)


def _galore_fp32(rank: int) -> State:
    """Nothing is cast: the projection is a part of the decomposition's factor, all of which stays."""

    def state(t: Tensor) -> Iterator[Stored]:
        for name, axes, form in _galore(rank)(t):
            yield name, (axes[1], axes[1]) if name == "projector" else axes, form

    return state


def _apollo(rank: int) -> State:
    """The same with a random projection, and the norm of the last update."""

    def state(t: Tensor) -> Iterator[Stored]:
        yield from _low_rank(t, rank)
        if is_linear(t):
            yield "scaled_grad", (), None

    return state


def _low_rank(t: Tensor, rank: int) -> Iterator[Stored]:
    if not is_linear(t):
        yield from like("exp_avg", "exp_avg_sq")(t)
        return
    yield "projector", (("X", rank), ("X", min(t.shape))), None
    for name in ("exp_avg", "exp_avg_sq"):
        yield name, (("X", max(t.shape)), ("X", rank)), None


def projected(t: Tensor, rank: int) -> int:
    """Elements of a matrix's projection to the rank, on its longer side."""
    return max(t.shape) * narrowed(t, rank)


def _galore_turn(rank: int) -> Turn:
    """Adam in the projection, and the update projected back and scaled."""

    def turn(t: Tensor, width: int) -> Iterator[Bound]:
        n, low = t.numel * width, projected(t, rank) * width if is_linear(t) else 0
        yield "grad", low, ()
        yield "denom", low or n, ()
        yield "norm_grad", low or n, ()
        if low:
            yield "norm_grad", n, (n,)

    return turn


def _apollo_turn(rank: int) -> Turn:
    """Adam in the projection; the gradient is scaled by the norms of its rows, and held to the growth of its own."""

    def turn(t: Tensor, width: int) -> Iterator[Bound]:
        n, longer = t.numel * width, max(t.shape) * width
        low = longer * rank if is_linear(t) else 0
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

    return turn


def projection(t: Tensor, rank: int) -> Tensor:
    """What takes a matrix' place while it is stepped."""
    return t.but(axes=(("X", max(t.shape)), ("X", narrowed(t, rank))))


def _stepped(t: Tensor, rank: int) -> Tensor:
    return projection(t, rank) if is_linear(t) else t


_moments: Final = kept(*TWO, bits=8, norm=True, in_full=small)


def _galore_8bit(rank: int, projectors: State) -> State:
    """Moments as bitsandbytes keeps them, of the projection, and the projection; tables are not kept in full.

    bitsandbytes takes the 100, which once was a percentile, for the largest norm of an update, and keeps that norm.
    """

    def state(t: Tensor) -> Iterator[Stored]:
        yield from (s for s in projectors(t) if s[0] == "projector")
        yield from _moments(_stepped(t, rank))

    return state


def _replacing(rank: int) -> Callable[[Trained], Group]:
    """bitsandbytes' step of the projection in the gradient's place, with the parameter's data swapped for its update.

    Weights are cloned, and the clone is kept: what was there before is gone as soon as the update takes its place.
    """

    def step(trained: Trained) -> Group:
        for t, width, _ in sorted(trained, key=lambda entry: is_linear(entry[0])):
            held = _stepped(t, rank)
            n, low = t.numel * width, held.numel * width
            if is_linear(t):
                yield [low, n, low]
                yield Replaced(n, low)
            if small(held):
                yield [low if is_linear(t) else 0, *norm(held.numel, width)]
            if is_linear(t):
                yield [low, n, n]

    return step


def _of_galore(rank: int) -> Optimizer:
    return Optimizer(
        "galore",
        _galore(rank),
        steps.looped(_galore_turn(rank), last=is_linear),
        f"two moments of each layer's matrices at rank {rank}, and the projections",
        "https://pypi.org/project/galore-torch/1.0/",
        rough=SVD,
        in_fp32=_galore_fp32(rank),
        at_rank=_of_galore,
    )


def _of_galore_8bit(rank: int) -> Optimizer:
    return Optimizer(
        "galore-8bit",
        _galore_8bit(rank, _galore(rank)),
        _replacing(rank),
        f"two moments of a byte an element, of each layer's matrices at rank {rank}, and the projections",
        "https://pypi.org/project/galore-torch/1.0/",
        rough=SVD,
        in_fp32=_galore_8bit(rank, _galore_fp32(rank)),
        once=maps(lambda t: small(_stepped(t, rank)), 2),
        shrinks=True,
        at_rank=_of_galore_8bit,
    )


def _of_apollo(rank: int) -> Optimizer:
    return Optimizer(
        "apollo",
        _apollo(rank),
        steps.looped(_apollo_turn(rank), last=is_linear),
        f"two moments of each layer's matrices at rank {rank}, and random projections",
        "https://pypi.org/project/apollo-torch/1.0.3/",
        at_rank=_of_apollo,
    )


OPTIMIZERS: Final = tuple(of(RANK) for of in (_of_galore, _of_galore_8bit, _of_apollo))
