"""Optimizers that make square matrices of a matrix' sides.

References: torch v2.13.0 torch/optim/_muon.py, pytorch-optimizer 4.1.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Final

from tonnage.memory import steps
from tonnage.memory.optimizers import Optimizer, Stored, like
from tonnage.memory.optimizers.plain import adam_fused
from tonnage.memory.steps import Bound
from tonnage.tensors import Tensor

PO: Final = "https://pypi.org/project/pytorch-optimizer/4.1.0/"
EIGEN: Final = "the eigenvectors that the optimizer finds every few steps, and what their making takes"
ROOTS: Final = "the roots of matrices that the optimizer finds every thousand steps"
BLOCK: Final = 512
"""Longest side of a block of Shampoo's (``block_size``)."""
WIDEST: Final = 8192
"""Longest side of a matrix that it makes blocks of (``no_preconditioning_for_layers_with_dim_gt``)."""
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


def _joined(shape: tuple[int, ...]) -> list[int]:
    """Sides as Shampoo takes them: small ones become one, and a wide first one has one of 1 before it."""
    out, whole = [], 1
    for n in shape:
        whole *= n
        if whole > BLOCK:
            out.append(whole // n)
            whole = n
    return [*out, whole] if out else []


def _sides(t: Tensor) -> list[int]:
    """Sides of the square matrices, block after block; none of what is small or wide."""
    if max(t.shape) > WIDEST:
        return []
    cuts = [[min(BLOCK, n - at) for at in range(0, n, BLOCK)] for n in _joined(t.shape)]
    return [n for block in product(*cuts) for n in block] if cuts else []


def _shampoo(t: Tensor) -> Iterator[Stored]:
    """Its momentum and the graft's; statistics of each block's sides, and their roots, in fp32."""
    yield from like("momentum", "graft")(t)
    sides = _sides(t)
    for name in ("statistics", "pre_conditioners") if sides else ():
        if len(set(sides)) == 1:
            yield name, (("X", len(sides)), ("X", sides[0]), ("X", sides[0])), "fp32"
        else:
            for i, n in enumerate(sides):
                yield f"{name}[{i}]", (("X", n), ("X", n)), "fp32"


def shampoo(t: Tensor, width: int) -> Iterator[Bound]:
    """Statistics of the gradient's blocks in fp32, the blocks multiplied and put together, and both updates."""
    n, wide, sides = t.numel * width, 4 * t.numel, _sides(t)
    copy = wide if width < 4 else 0
    if sides:
        yield "", copy, (2 * wide,) if len(set(sides)) == 1 else (4 * max(sides) ** 2,)
    yield "graft_grad", n, ()
    if sides:
        # Blocks beside each other become rows, and these the matrix; both lists live until it is there. What is one
        # block is there before the last product and after it.
        cuts = max(1, sum(side > BLOCK for side in _joined(t.shape)))
        yield "", wide, (copy, *([wide] * cuts))
        yield "shampoo_grad", n if copy else 0, (copy, wide, wide)
    yield "shampoo_grad", n, ()
    yield "momentum_update", n, ()


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
    Optimizer(
        "shampoo",
        _shampoo,
        steps.looped(shampoo),
        "two momenta, and square matrices in fp32 for blocks of 512",
        PO,
        rough=ROOTS,
    ),
)
