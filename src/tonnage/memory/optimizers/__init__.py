"""Optimizer state as a map over the parameters, and what the step itself takes.

A module per library or kind; ``PLACES`` says which optimizer lies where, and only that module is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Final

from tonnage.errors import InputError, nearest
from tonnage.memory.accounts import blocks
from tonnage.memory.steps import Group, Replaced, Trained
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor
from tonnage.timeline import Level

TORCH: Final = "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/optim/"

LEAST_8BIT: Final = 4096
"""Tensors with fewer elements keep states in full (``min_8bit_size``; torchao's condition is the same)."""

PLACES: Final = {
    "plain": (
        "adamw-fused", "adamw-foreach", "adamw-foreach-2.0", "adamw-loop", "adamw-amsgrad", "sgd-momentum", "sgd",
        "rmsprop", "adagrad", "nadam",
    ),
    "factored": ("adafactor", "adafactor-torch", "came"),
    "eight_bit": (
        "adamw-8bit", "paged-adamw-8bit", "adamw-bnb", "paged-adamw", "ademamix", "ademamix-8bit", "paged-ademamix",
        "paged-ademamix-8bit", "lion-bnb", "lion-8bit", "paged-lion", "paged-lion-8bit", "rmsprop-bnb", "rmsprop-8bit",
        "lamb-8bit",
    ),
    "torchao": ("adamw-8bit-ao", "adamw-4bit-ao", "adamw-fp8-ao", "adamw-offload-ao"),
    "single": (
        "lion", "schedule-free", "schedule-free-radam", "schedule-free-sgd", "sophia", "lamb", "stable-adamw",
        "grokadamw", "adam-mini",
    ),
    "preconditioned": ("muon", "soap", "shampoo"),
    "hooked": ("lomo", "adalomo"),
    "low_rank": ("galore", "galore-8bit", "apollo"),
    "quantized": ("q-galore", "q-galore-proj"),
}  # fmt: skip
"""Modules of this package, and the optimizers that they hold."""
NAMES: Final = tuple(name for names in PLACES.values() for name in names)
SPELLINGS: Final = {
    "adam": "adamw", "adamw-torch": "adamw-foreach", "adamw-torch-fused": "adamw-fused", "adamw-hf": "adamw-foreach",
    "adamw-bnb-8bit": "adamw-8bit", "adamw-torch-8bit": "adamw-8bit-ao", "adamw-torch-4bit": "adamw-4bit-ao",
    "paged-adamw-32bit": "paged-adamw", "paged-ademamix-32bit": "paged-ademamix", "lion-32bit": "lion-bnb",
    "paged-lion-32bit": "paged-lion", "rmsprop-bnb-32bit": "rmsprop-bnb", "rmsprop-bnb-8bit": "rmsprop-8bit",
    "schedule-free-adamw": "schedule-free", "galore-adamw": "galore", "galore-adamw-8bit": "galore-8bit",
    "apollo-adamw": "apollo",
}  # fmt: skip
"""Other names of them, with hyphens: transformers' (``OptimizerNames``), and Adam, which keeps what AdamW keeps."""

Stored = tuple[str, Axes, str | None]
"""Name of a state, its axes, and its format; None for the format of the parameter."""


class Optimizer(Record):
    """What an optimizer keeps for each parameter, and what its step takes for a moment.

    Args:
        name: as the command line takes it.
        state: tensors on the device for one parameter.
        step: what one step holds beside them.
        why: the state in words.
        source: the code that is followed.
        hosted: whether a state of a parameter lies on the host, or in memory that host and device share.
        once: what is kept once for all parameters. [byte]
        rough: what is left out of the step, where something is.
        in_fp32: tensors on the device for a parameter in fp32, where they are others.
        late: it steps within the backward pass, a parameter when the next one's gradient is there.
        fitted: the same for a model, from its weights, where it is told of more than single parameters.
        shrinks: gradients give way to smaller tensors while it runs: what one leaves counts at the next.
        at_rank: the same with projections of another rank, where it projects.
        packs: weights that lie in a byte an element while it trains them (``arch/int8.py``).
        layerwise: what it is where it steps in the backward pass, if that is something else.
        leaves: parameters, by name, that it does not step there: their gradients stay.
        told: what has to be said of it.
    """

    name: str
    state: Callable[[Tensor], Iterator[Stored]]
    step: Callable[[Trained], Group]
    why: str
    source: str = TORCH
    hosted: Callable[[Tensor, str], bool] | None = None
    once: Callable[[Trained], list[int]] | None = None
    rough: str | None = None
    in_fp32: Callable[[Tensor], Iterator[Stored]] | None = None
    late: bool = False
    fitted: Callable[[Iterable[Tensor]], Optimizer] | None = None
    shrinks: bool = False
    at_rank: Callable[[int], Optimizer] | None = None
    packs: Callable[[Tensor], bool] | None = None
    layerwise: Callable[[], Optimizer] | None = None
    leaves: Callable[[str], bool] | None = None
    told: str | None = None

    def resident(self, t: Tensor, form: str) -> Iterator[Stored]:
        """The part of the state that lies on the device, for a parameter in this format."""
        state = self.in_fp32 if self.in_fp32 is not None and form == "fp32" else self.state
        return (s for s in state(t) if not self._out(t, s[0]))

    def outside(self, t: Tensor, form: str) -> Iterator[Stored]:
        """The part that does not."""
        return (s for s in self.state(t) if self._out(t, s[0]))

    def _out(self, t: Tensor, name: str) -> bool:
        return self.hosted is not None and self.hosted(t, name)

    def tables(self, trained: Trained) -> list[int]:
        """What the optimizer keeps once. [byte]"""
        return self.once(trained) if self.once is not None else []


def highest(groups: Group) -> tuple[Level, Level]:
    """The most of what is held for a moment, one group after the other.

    Returns what the step holds there, and by how much gradients have shrunk until then.
    """
    best, shrunk, gone = Level(), Level(), Level()
    for group in groups:
        if isinstance(group, Replaced):
            gone = gone + Level(group.was - group.now, blocks(group.was) - blocks(group.now))
            continue
        level = Level(sum(group), sum(blocks(n) for n in group))
        if level.allocated - gone.allocated > best.allocated - shrunk.allocated:
            best, shrunk = level, gone
    return best, shrunk


def like(*names: str, form: str | None = None) -> Callable[[Tensor], Iterator[Stored]]:
    """A state of tensors of the parameter's own shape.

    Args:
        names: of the tensors.
        form: their format; None for that of the parameter.
    """

    def state(t: Tensor) -> Iterator[Stored]:
        for name in names:
            yield name, t.axes, form

    return state


def spelled(name: str | None) -> str:
    """An optimizer's name as this package has it; ``adamw`` where none is said.

    >>> spelled("paged_adamw_8bit"), spelled("adamw_torch"), spelled(None)
    ('paged-adamw-8bit', 'adamw-foreach', 'adamw')
    """
    plain = (name or "adamw").lower().replace("_", "-")
    return SPELLINGS.get(plain, plain)


def optimizer(name: str) -> Optimizer:
    """The optimizer of that name.

    Raises:
        InputError: not known.
    """
    for place, names in PLACES.items():
        if name in names:
            found: tuple[Optimizer, ...] = import_module(f"tonnage.memory.optimizers.{place}").OPTIMIZERS
            return next(o for o in found if o.name == name)
    raise InputError(
        f"unknown optimizer {name!r}", key="optimizer", value=name, nearest=nearest(name, (*NAMES, "adamw")),
        hint=f"one of {', '.join(NAMES)}",
    )  # fmt: skip


def at_rank(optimizer: Optimizer, rank: int | None) -> Optimizer:
    """The optimizer at the rank of projections that is asked for.

    Raises:
        InputError: it has none.
    """
    if rank is None:
        return optimizer
    if optimizer.at_rank is None:
        raise InputError(
            f"optimizer_rank = {rank}: optimizer = {optimizer.name} projects nothing", key="optimizer_rank", value=rank,
            hint="--optimizer galore, galore-8bit, apollo, q-galore or q-galore-proj",
        )  # fmt: skip
    return optimizer.at_rank(rank)
