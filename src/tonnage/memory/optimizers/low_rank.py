"""Optimizers that keep moments of a matrix' projection.

References: galore-torch 1.0 adamw.py, adamw8bit.py, apollo-torch 1.0.3 apollo.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.memory import steps
from tonnage.memory.optimizers import LEAST_8BIT, Optimizer, Stored, like
from tonnage.memory.optimizers.eight_bit import TWO, kept, maps, norm
from tonnage.memory.steps import Bound, Group, Replaced, Trained, is_linear
from tonnage.tensors import Tensor

SVD: Final = "the decompositions of gradients that the optimizer makes every few hundred steps"
GALORE_RANK: Final = 128
"""Rank of the projections of GaLore and APOLLO, as the Trainer asks for them."""


def _galore(t: Tensor) -> Iterator[Stored]:
    """Moments of a matrix's projection to 128 rows or columns, and the projection."""
    yield from _low_rank(t, min(GALORE_RANK, *t.shape))


def _galore_fp32(t: Tensor) -> Iterator[Stored]:
    """Nothing is cast: the projection is a part of the decomposition's factor, all of which stays."""
    for name, axes, form in _galore(t):
        yield name, (axes[1], axes[1]) if name == "projector" else axes, form


def _apollo(t: Tensor) -> Iterator[Stored]:
    """The same with a random projection, and the norm of the last update."""
    yield from _low_rank(t, GALORE_RANK)
    if is_linear(t):
        yield "scaled_grad", (), None


def _low_rank(t: Tensor, rank: int) -> Iterator[Stored]:
    if not is_linear(t):
        yield from like("exp_avg", "exp_avg_sq")(t)
        return
    yield "projector", (("X", rank), ("X", min(t.shape))), None
    for name in ("exp_avg", "exp_avg_sq"):
        yield name, (("X", max(t.shape)), ("X", rank)), None


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


def _projection(t: Tensor) -> Tensor:
    """What takes a matrix' place while it is stepped."""
    return t.but(axes=(("X", max(t.shape)), ("X", min(GALORE_RANK, *t.shape)))) if is_linear(t) else t


def _small(t: Tensor) -> bool:
    return _projection(t).numel < LEAST_8BIT


_moments: Final = kept(*TWO, bits=8, norm=True, in_full=lambda t: t.numel < LEAST_8BIT)


def _galore_8bit(t: Tensor) -> Iterator[Stored]:
    """Moments as bitsandbytes keeps them, of the projection, and the projection; tables are not kept in full.

    bitsandbytes takes the 100, which once was a percentile, for the largest norm of an update, and keeps that norm.
    """
    yield from (s for s in _galore(t) if s[0] == "projector")
    yield from _moments(_projection(t))


def _galore_8bit_fp32(t: Tensor) -> Iterator[Stored]:
    yield from (s for s in _galore_fp32(t) if s[0] == "projector")
    yield from _moments(_projection(t))


def _replacing(trained: Trained) -> Group:
    """bitsandbytes' step of the projection in the gradient's place, with the parameter's data swapped for its update.

    Weights are cloned, and the clone is kept: what was there before is gone as soon as the update takes its place.
    """
    order = sorted(trained, key=lambda entry: is_linear(entry[0]))
    for t, width, _ in order:
        n, low = t.numel * width, _projection(t).numel * width
        if is_linear(t):
            yield [low, n, low]
            yield Replaced(n, low)
        if _small(t):
            yield [low if is_linear(t) else 0, *norm(_projection(t).numel, width)]
        if is_linear(t):
            yield [low, n, n]


OPTIMIZERS: Final = (
    Optimizer(
        "galore",
        _galore,
        steps.looped(galore, last=steps.is_linear),
        "two moments of each layer's matrices at rank 128, and the projections",
        "https://pypi.org/project/galore-torch/1.0/",
        rough=SVD,
        in_fp32=_galore_fp32,
    ),
    Optimizer(
        "galore-8bit",
        _galore_8bit,
        _replacing,
        "two moments of a byte an element, of each layer's matrices at rank 128, and the projections",
        "https://pypi.org/project/galore-torch/1.0/",
        rough=SVD,
        in_fp32=_galore_8bit_fp32,
        once=maps(_small, 2),
        shrinks=True,
    ),
    Optimizer(
        "apollo",
        _apollo,
        steps.looped(apollo, last=steps.is_linear),
        "two moments of each layer's matrices at rank 128, and random projections",
        "https://pypi.org/project/apollo-torch/1.0.3/",
    ),
)
