"""Weights and buffers as they lie on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tonnage.arch.model import Model
from tonnage.formats import FORMATS, Format
from tonnage.memory.passes import blocks
from tonnage.tensors import Inventory, Tensor
from tonnage.timeline import Level


def bytes_of(
    groups: Iterable[tuple[int, Inventory]], form: Format, keep: Callable[[Tensor], bool]
) -> tuple[Level, int]:
    """Bytes of the tensors that ``keep`` names, each stored on its own.

    Args:
        groups: inventories with how often each stands.
        form: storage format of an element.
        keep: which tensors; those that share another's storage take nothing.

    Returns:
        The level [byte] and the number of tensors.
    """
    requested = allocated = count = 0
    for times, inventory in groups:
        for t in inventory:
            if t.alias_of is None and keep(t):
                n = (form if t.dtype is None else FORMATS[t.dtype]).nbytes(t.numel)
                requested += times * n
                allocated += times * blocks(n)
                count += times
    return Level(requested, allocated), count


def is_parameter(t: Tensor) -> bool:
    """What training changes."""
    return t.role != "buffer"


def is_buffer(t: Tensor) -> bool:
    """What lies beside the weights and is no parameter."""
    return t.role == "buffer"


def weights(model: Model, form: Format) -> tuple[Level, int]:
    """Bytes of all parameters in one format, and how many tensors they are."""
    return bytes_of(model.groups(), form, is_parameter)
