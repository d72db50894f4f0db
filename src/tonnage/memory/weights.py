"""Weights and buffers as they lie on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from tonnage.arch.model import Model
from tonnage.formats import FORMATS, Format
from tonnage.memory.passes import blocks
from tonnage.record import Record
from tonnage.tensors import Inventory, Tensor
from tonnage.timeline import Level

if TYPE_CHECKING:
    from tonnage.quant import Entry, Recipe, Stored


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


PARTS: Final = ("packed values", "indices", "scales", "zero points", "codebooks", "kept")
"""What stored tensors are to their weights, in the order in which lines tell them."""


class Share(Record):
    """What of a quantized model's weights is of one kind and in one format.

    Args:
        part: what it is to the weights: packed values, scales, kept as it was, ...
        format: of its elements.
        level: what it takes. [byte]
        tensors: how many.
        elements: how many in all of them.
        largest: bytes of the largest tensor.
    """

    part: str
    format: str
    level: Level
    tensors: int
    elements: int
    largest: int

    @property
    def what(self) -> str:
        """In words.

        >>> Share(part="scales", format="fp32", level=Level(4, 512), tensors=1, elements=1, largest=4).what
        'scales in fp32'
        """
        return f"{self.part} in {self.format}"


def stored(model: Model, form: Format, recipe: Recipe, found: list[Entry] | None = None) -> tuple[Share, ...]:
    """A model's weights as a recipe stores them, by part and format.

    Args:
        model: whose weights.
        form: format of what the recipe leaves in the model's own.
        recipe: how they are stored.
        found: the model's entries, where several recipes are asked in turn.
    """
    from tonnage import quant

    return shares(quant.stored(model, recipe, found), form)


def shares(found: Iterable[Stored], form: Format) -> tuple[Share, ...]:
    """Sums of stored tensors by part and format; buffers are no part of the weights."""
    sums: dict[tuple[str, str], list[int]] = {}
    for times, t, part in found:
        if t.alias_of is None and t.role != "buffer":
            own = form if t.dtype is None else FORMATS[t.dtype]
            numel = t.numel
            n = own.nbytes(numel)
            at = sums.setdefault((part, own.name), [0, 0, 0, 0, 0])
            at[0] += times * n
            at[1] += times * blocks(n)
            at[2] += times
            at[3] += times * numel
            at[4] = max(at[4], n)
    order = sorted(sums.items(), key=lambda item: PARTS.index(item[0][0]))
    return tuple(
        Share(part=part, format=name, level=Level(at[0], at[1]), tensors=at[2], elements=at[3], largest=at[4])
        for (part, name), at in order
    )


def total(found: Iterable[Share]) -> Level:
    """What several shares take together. [byte]"""
    level = Level()
    for share in found:
        level = level + share.level
    return level
