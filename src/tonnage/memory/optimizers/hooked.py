"""Optimizers that step in hooks of the backward pass: LOMO and AdaLOMO.

A parameter is stepped by the hook of the next gradient; a copy of its own gradient in fp32 takes that one's place.

Reference: lomo-optim 0.1.1 lomo.py, adalomo.py (``fuse_update``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Final

from tonnage.memory.optimizers import Optimizer, Stored
from tonnage.memory.optimizers.factored import factors
from tonnage.memory.optimizers.plain import stateless
from tonnage.memory.steps import Group, Replaced, Trained
from tonnage.tensors import Tensor

LOMO: Final = "https://pypi.org/project/lomo-optim/0.1.1/"
LAST: Final = "the last gradient of a layer, which waits for the first one of the next"


def _factored(t: Tensor) -> Iterator[Stored]:
    yield from factors(t, "exp_avg_sq", "fp32")


def _fused(own: Callable[[Tensor, int], list[list[int]]]) -> Callable[[Trained], Group]:
    """The gradient gives way to a copy: what the step makes, and the copy of the parameter."""

    def step(trained: Trained) -> Group:
        for t, width, _ in trained:
            if width < 4:
                yield Replaced(width * t.numel, 4 * t.numel)
            yield from own(t, 4 * t.numel if width < 4 else 0)

    return step


def _lomo(t: Tensor, copy: int) -> list[list[int]]:
    return [[copy]]


def _adalomo(t: Tensor, copy: int) -> list[list[int]]:
    """Squares and their sum with epsilon, then the update that sums over rows and columns make, or that of a vector."""
    n = 4 * t.numel
    rows, columns = (4 * prod(t.shape[:-1]), 4 * t.numel // t.shape[-2]) if len(t.shape) > 1 else (0, 0)
    return [[n, n], [n, n, rows, columns], [n, copy]]


OPTIMIZERS: Final = (
    Optimizer("lomo", stateless, _fused(_lomo), "no state", LOMO, late=True, rough=LAST),
    Optimizer(
        "adalomo", _factored, _fused(_adalomo), "sums of squares over rows and columns, in fp32", LOMO, late=True,
        rough=LAST,
    ),
)  # fmt: skip
