"""Optimizer state as a map over the parameters, and what the step itself takes.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/optim/adamw.py, adam.py, sgd.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.memory.passes import blocks
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor, size
from tonnage.timeline import Level

Stored = tuple[str, Axes, str | None]
"""Name of a state, its axes, and its format; None for the format of the parameter."""
Sizes = list[tuple[int, int]]
"""Bytes of a tensor and how often it stands."""


class Optimizer(Record):
    """What an optimizer keeps for each parameter, and what its step takes for a moment.

    Args:
        name: as the command line takes it.
        state: tensors on the device for one parameter.
        step: from the parameters' sizes in their state's format with how often each stands [byte], in the order of the
            model, to what one step holds at once for a moment: groups of sizes, one after the other. [byte]
        why: the state in words.
    """

    name: str
    state: Callable[[Tensor], Iterator[Stored]]
    step: Callable[[Sizes], Iterator[list[int]]]
    why: str

    def highest(self, sizes: Sizes) -> Level:
        """The most that a step holds for a moment."""
        best = Level()
        for group in self.step(sizes):
            level = Level(sum(group), sum(blocks(n) for n in group))
            best = level if level.allocated > best.allocated else best
        return best


def _adam(t: Tensor) -> Iterator[Stored]:
    yield "exp_avg", t.axes, None
    yield "exp_avg_sq", t.axes, None


def _adam_fused(t: Tensor) -> Iterator[Stored]:
    # Only the fused step counts on the device; the others keep their counters on the host.
    yield "step", (), "fp32"
    yield from _adam(t)


def _momentum(t: Tensor) -> Iterator[Stored]:
    yield "momentum_buffer", t.axes, None


def _none(t: Tensor) -> Iterator[Stored]:
    yield from ()


def _nothing(sizes: Sizes) -> Iterator[list[int]]:
    yield from ()


def _square_roots(sizes: Sizes) -> Iterator[list[int]]:
    """``torch._foreach_sqrt`` of all second moments at once."""
    yield [n for n, times in sizes for _ in range(times)]


def _one_by_one(sizes: Sizes) -> Iterator[list[int]]:
    """A root and a quotient for each parameter in turn; the last quotient lives until the next is bound."""
    before = 0
    for n, times in sizes:
        for _ in range(times):
            yield [before, n, n]
            before = n


OPTIMIZERS: Final[dict[str, Optimizer]] = {
    o.name: o
    for o in (
        Optimizer("adamw-fused", _adam_fused, _nothing, "two moments in the parameters' format and a counter each"),
        Optimizer("adamw-foreach", _adam, _square_roots, "two moments in the parameters' format"),
        Optimizer("adamw-loop", _adam, _one_by_one, "two moments in the parameters' format"),
        Optimizer("sgd-momentum", _momentum, _nothing, "one momentum in the parameters' format"),
        Optimizer("sgd", _none, _nothing, "no state"),
    )
}

NAMED_ONLY: Final = (
    "adamw-8bit", "paged-adamw-8bit", "adafactor", "lion", "came", "lamb", "sophia", "muon", "soap", "shampoo",
    "adam-mini",     "galore", "apollo", "q-galore", "lomo", "adalomo", "schedule-free",
)  # fmt: skip


def optimizer(name: str) -> Optimizer:
    """The optimizer of that name.

    Raises:
        UnsupportedError: known, and not modelled yet.
        InputError: not known.
    """
    found = OPTIMIZERS.get(name)
    if found is not None:
        return found
    if name in NAMED_ONLY:
        raise UnsupportedError(
            f"the optimizer {name} is not modelled yet",
            key="optimizer",
            value=name,
            hint=f"one of {', '.join(OPTIMIZERS)}",
        )
    raise InputError(
        f"unknown optimizer {name!r}",
        key="optimizer",
        value=name,
        nearest=nearest(name, (*OPTIMIZERS, "adamw", *NAMED_ONLY)),
    )


def state(o: Optimizer, parameters: Iterable[Tensor]) -> Iterator[tuple[Tensor, str | None]]:
    """The optimizer's tensors for a list of parameters, with the format where it is not the parameter's."""
    for t in parameters:
        for name, axes, form in o.state(t):
            yield Tensor(f"{t.name}.{name}", axes, "optimizer", layer=t.layer), form


def numel(axes: Axes) -> int:
    """Elements of a state."""
    return size(axes)
