"""Optimizers that make square matrices of a matrix' sides.

References: torch v2.13.0 torch/optim/_muon.py, pytorch-optimizer 4.1.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.memory import steps
from tonnage.memory.optimizers import Optimizer, Stored
from tonnage.memory.optimizers.plain import adam_fused
from tonnage.memory.steps import Bound
from tonnage.tensors import Tensor

PO: Final = "https://pypi.org/project/pytorch-optimizer/4.1.0/"
EIGEN: Final = "the eigenvectors that the optimizer finds every few steps, and what their making takes"
LARGEST_SQUARE: Final = 10_000
"""Longest side that SOAP makes a square matrix for (``max_precondition_dim``)."""


def _muon(t: Tensor) -> Iterator[Stored]:
    if steps.is_matrix(t):
        yield "momentum_buffer", t.axes, None
    else:
        yield from adam_fused(t)


def _preconditioned(t: Tensor, *, inverse: str, moments: tuple[str, ...]) -> Iterator[Stored]:
    """A square matrix, and what is made of it, for every dimension of a matrix."""
    for name in moments:
        yield name, t.axes, None
    if len(t.shape) > 1:
        for i, n in enumerate(t.shape):
            if n <= LARGEST_SQUARE:
                yield f"{inverse}[{i}]", (("X", n), ("X", n)), None
                yield f"Q[{i}]", (("X", n), ("X", n)), None


def _soap(t: Tensor) -> Iterator[Stored]:
    yield from _preconditioned(t, inverse="GG", moments=("exp_avg", "exp_avg_sq"))


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


OPTIMIZERS: Final = (
    Optimizer(
        "muon",
        _muon,
        steps.looped(muon, only=steps.is_matrix),
        "one momentum of each matrix in a layer, AdamW for the rest",
    ),
    Optimizer(
        "soap",
        _soap,
        steps.each(2),
        "two moments, and two square matrices for each side of a matrix up to 10,000",
        PO,
        rough=EIGEN,
    ),
)
