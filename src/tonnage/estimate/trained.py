"""Which parameters a training step reaches."""

from __future__ import annotations

from collections.abc import Iterable

from tonnage.arch.model import Model
from tonnage.memory.passes import Pass
from tonnage.memory.weights import is_parameter
from tonnage.tensors import Inventory, Tensor

Standing = Iterable[tuple[Tensor, int]]
"""Tensors with how often each stands."""


def reached(
    model: Model, groups: Iterable[tuple[int, Inventory]], passes: Pass, adapters: Standing | None
) -> tuple[list[tuple[Tensor, int]], list[tuple[Tensor, int]]]:
    """Parameters that a gradient arrives at, and those that it passes by, with how often each stands.

    An optimizer makes a state where it first meets a gradient: what a pass does not reach (a tower, where a step has
    no images) is resident and no more. torch v2.13.0 torch/optim/adam.py, _init_group.
    """
    trained: list[tuple[Tensor, int]] = []
    idle: list[tuple[Tensor, int]] = []
    if adapters is not None:
        from tonnage.memory.adapters import local_names

        everywhere = frozenset().union(*passes.reached.values())
        for t, times in adapters:
            there = local_names(model, [t.name]) <= everywhere
            (trained if there else idle).append((t, times))
        return trained, idle
    owners = [o for s in model.stacks for o in (None, *(id(layer) for layer, _ in s.distinct()), None)]
    for owner, (times, inventory) in zip([*owners, None], groups, strict=True):
        names = passes.reached.get(owner, set())
        for t in inventory:
            if is_parameter(t) and t.alias_of is None:
                (trained if t.name in names else idle).append((t, times))
    return trained, idle
