"""Optimizers that keep sums over rows and columns in the place of a second moment.

References: torch v2.13.0 torch/optim/_adafactor.py, transformers v5.23.0 optimization.py (Adafactor), came-pytorch
0.1.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Final

from tonnage.memory import steps
from tonnage.memory.optimizers import Optimizer, Stored
from tonnage.memory.steps import Bound
from tonnage.tensors import Axes, Tensor

HF: Final = "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/optimization.py"


def factors(t: Tensor, name: str, form: str | None) -> Iterator[Stored]:
    """Sums over rows and over columns of a matrix; all of a vector."""
    *outer, rows, columns = (1, 1, *t.shape)
    lead: Axes = tuple(("X", n) for n in outer[2:]) if len(t.shape) > 1 else ()
    if len(t.shape) > 1:
        yield f"{name}_row", (*lead, ("X", rows)), form
        yield f"{name}_col", (*lead, ("X", columns)), form
    else:
        yield name, t.axes, form


def _adafactor(t: Tensor) -> Iterator[Stored]:
    yield from factors(t, "exp_avg_sq", "fp32")
    yield "RMS", (), "fp32"


def _adafactor_torch(t: Tensor) -> Iterator[Stored]:
    yield from factors(t, "var", None)


def _came(t: Tensor) -> Iterator[Stored]:
    yield "exp_avg", t.axes, "fp32"
    yield from factors(t, "exp_avg_sq", "fp32")
    if len(t.shape) > 1:
        yield from factors(t, "exp_avg_res", "fp32")
    yield "RMS", (), None


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


OPTIMIZERS: Final = (
    Optimizer("adafactor", _adafactor, steps.looped(adafactor), "sums of squares over rows and columns, in fp32", HF),
    Optimizer(
        "adafactor-torch",
        _adafactor_torch,
        steps.looped(adafactor_torch),
        "sums of squares over rows and columns",
    ),
    Optimizer(
        "came",
        _came,
        steps.looped(came),
        "one moment and factored sums, in fp32",
        "https://pypi.org/project/came-pytorch/0.1.3/",
    ),
)
