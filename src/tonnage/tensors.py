"""The intermediate representation: named tensors with named axes.

Axis letters. Every shape in this project is written with them; docs/notation.md prints this table.

  B  batch            N  query heads      L  layers               C  convolution width
  T  query tokens     K  key/value heads  V  vocabulary           P  positions of a table
  S  cached tokens    H  head width       E  experts, as weights  J  heads packed per group
  D  residual width   F  feed-forward     R  latent rank          Z  state of a recurrence
  I  inner width of a recurrent mixer     X  anything that is never cut

  Tn query tokens where norm, dropout and residual run (sequence parallelism cuts these)
  Er experts as router outputs (never cut)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal, get_args

from tonnage.record import Value

Axis = tuple[str, int]
Axes = tuple[Axis, ...]

Role = Literal[
    "embedding", "position", "attention", "feed_forward", "expert", "shared_expert", "router", "mixer", "norm", "head",
    "pooler", "vision", "audio", "buffer", "cache", "state", "optimizer", "activation",
]  # fmt: skip
ROLES: tuple[Role, ...] = get_args(Role)


def size(axes: Axes) -> int:
    """Elements of a tensor with these axes.

    >>> size((("T", 3), ("D", 4)))
    12
    """
    return math.prod([n for _, n in axes])


def halved(x: Axes, axis: str) -> Axes:
    """The axes of one half along ``axis``."""
    return tuple((a, n // 2) if a == axis else (a, n) for a, n in x)


class Tensor(Value):
    """A named array. Everything else - parameters, bytes, shards - is derived from it.

    Args:
        name: as transformers names it, below its module.
        axes: letters and sizes, outermost first.
        role: what it is for.
        dims: how many axes each dimension of the stored array merges; empty when each axis is a dimension of its own.
        layer: index in the repeated stack; None outside it.
        alias_of: name of the tensor whose storage this one shares.
        dtype: its format, where that is not the one that the model is loaded in.
    """

    name: str
    axes: Axes
    role: Role
    dims: tuple[int, ...] = ()
    layer: int | None = None
    alias_of: str | None = None
    dtype: str | None = None

    @property
    def numel(self) -> int:
        """Elements that this tensor itself stores: none when it shares another's storage."""
        return 0 if self.alias_of is not None else size(self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored array, as torch prints it.

        >>> Tensor("q", (("N", 2), ("H", 8), ("D", 16)), "attention", dims=(2, 1)).shape
        (16, 16)
        """
        if not self.dims:
            return tuple(n for _, n in self.axes)
        sizes, at, out = [n for _, n in self.axes], 0, []
        for merged in self.dims:
            out.append(math.prod(sizes[at : at + merged]))
            at += merged
        return tuple(out)

    def renamed(self, name: str) -> Tensor:
        """The same tensor under another name."""
        return Tensor(name, self.axes, self.role, self.dims, self.layer, self.alias_of, self.dtype)

    def below(self, base: str) -> Tensor:
        """The same tensor as the module ``base`` names it."""
        alias = None if self.alias_of is None else self.alias_of.removeprefix(base)
        return Tensor(self.name.removeprefix(base), self.axes, self.role, self.dims, self.layer, alias, self.dtype)

    def placed(self, prefix: str, layer: int | None = None) -> Tensor:
        """The same tensor under a module's name."""
        return Tensor(f"{prefix}{self.name}", self.axes, self.role, self.dims, layer, self.alias_of, self.dtype)


Inventory = tuple[Tensor, ...]
"""A list of tensors: parameters, a cache, optimizer state, saved activations."""


def numel(inventory: Iterable[Tensor]) -> int:
    """Elements of an inventory; shared storage counts once."""
    return sum(t.numel for t in inventory)


def breakdown(inventory: Iterable[Tensor], group: Callable[[Tensor], str]) -> dict[str, int]:
    """Elements per group. Groups always add up to the whole: a report cannot lose a tensor.

    >>> breakdown([Tensor("w", (("D", 4),), "norm"), Tensor("b", (("D", 4),), "norm")], lambda t: t.role)
    {'norm': 8}
    """
    parts: dict[str, int] = {}
    total = 0
    for t in inventory:
        n = t.numel
        total += n
        parts[group(t)] = parts.get(group(t), 0) + n
    assert sum(parts.values()) == total
    return parts


def product(axes: Axes, width: int | None = None) -> str:
    """How a tensor's size is written for people.

    >>> product((("T", 2048), ("D", 4096)), 2)
    'T 2048 x D 4096 x 2 B'
    """
    text = " x ".join(f"{letter} {n}" for letter, n in axes) or "1"
    return text if width is None else f"{text} x {width} B"
