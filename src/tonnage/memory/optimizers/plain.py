"""The optimizers of torch.optim.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/optim/adamw.py, adam.py, sgd.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.memory import steps
from tonnage.memory.optimizers import Optimizer, Stored, like
from tonnage.memory.steps import Bound, Group, Trained
from tonnage.tensors import Tensor


def adam_fused(t: Tensor) -> Iterator[Stored]:
    """Two moments, and a counter for each tensor."""
    # Only the fused step counts on the device; the others keep their counters on the host.
    yield "step", (), "fp32"
    yield from like("exp_avg", "exp_avg_sq")(t)


def stateless(t: Tensor) -> Iterator[Stored]:
    """Nothing is kept."""
    yield from ()


def adamw(t: Tensor, width: int) -> Iterator[Bound]:
    """A root, a quotient of it, and that plus epsilon, which keeps its name."""
    n = t.numel * width
    yield "denom", n, (n,)


def by_format(trained: Trained) -> Group:
    """A foreach step of torch 2.0: roots, and these plus epsilon, of one format after the other.

    Names of the last format stand until they are bound anew.
    Reference: https://github.com/pytorch/pytorch/blob/v2.0.1/torch/optim/adamw.py (_multi_tensor_adamw).
    """
    formats: dict[int, list[int]] = {}
    for t, width, times in trained:
        formats.setdefault(width, []).extend([t.numel * width] * times)
    roots: list[int] = []
    denominators: list[int] = []
    for sizes in formats.values():
        yield [*roots, *denominators, *sizes]
        roots = sizes
        yield [*roots, *denominators, *sizes]
        denominators = sizes


OPTIMIZERS: Final = (
    Optimizer("adamw-fused", adam_fused, steps.nothing, "two moments in the parameters' format and a counter each"),
    Optimizer(
        "adamw-foreach",
        like("exp_avg", "exp_avg_sq"),
        steps.all_at_once(1),
        "two moments in the parameters' format",
    ),
    Optimizer(
        "adamw-foreach-2.0",
        like("exp_avg", "exp_avg_sq"),
        by_format,
        "two moments in the parameters' format; torch 2.0 makes two more for a step",
    ),
    Optimizer(
        "adamw-loop",
        like("exp_avg", "exp_avg_sq"),
        steps.looped(adamw),
        "two moments in the parameters' format",
    ),
    Optimizer(
        "adamw-amsgrad",
        like("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
        steps.all_at_once(1),
        "two moments and the largest second one",
    ),
    Optimizer("sgd-momentum", like("momentum_buffer"), steps.nothing, "one momentum in the parameters' format"),
    Optimizer("sgd", stateless, steps.nothing, "no state"),
    Optimizer("rmsprop", like("square_avg"), steps.all_at_once(1), "one second moment in the parameters' format"),
    Optimizer("adagrad", like("sum"), steps.all_at_once(2), "one sum of squares in the parameters' format"),
    Optimizer("nadam", like("exp_avg", "exp_avg_sq"), steps.all_at_once(1), "two moments in the parameters' format"),
)
