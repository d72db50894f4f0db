"""The optimizers of bitsandbytes.

Reference: https://github.com/bitsandbytes-foundation/bitsandbytes/blob/0.50.2/bitsandbytes/optim/optimizer.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tonnage.memory import steps
from tonnage.memory.optimizers import LEAST_8BIT, Optimizer, Stored
from tonnage.memory.steps import Group, Trained
from tonnage.tensors import Tensor

BNB: Final = "https://github.com/bitsandbytes-foundation/bitsandbytes/blob/0.50.2/bitsandbytes/optim/optimizer.py"

LEAST_PAGED: Final = 100_000
"""Tensors with fewer elements keep paged states on the device (``get_state_buffer``)."""
MAP: Final = 1024
"""A map of 256 values, by which 8 bits are read. [byte]"""
SCALED: Final = 256
"""Elements that share a scale."""


def small(t: Tensor) -> bool:
    """Whether a tensor keeps its states in fp32 where others keep 8 bits."""
    return t.numel < LEAST_8BIT


def _in_full(t: Tensor) -> bool:
    """Small tensors keep states in fp32, and so do tables, as the Trainer asks."""
    return small(t) or t.role in ("embedding", "position")


def maps(in_full: Callable[[Tensor], bool], states: int) -> Callable[[Trained], list[int]]:
    """So many maps, unless all parameters keep their states in full."""

    def made(trained: Trained) -> list[int]:
        return [] if all(in_full(t) for t, _, _ in trained) else [MAP] * states

    return made


def _large(t: Tensor, name: str) -> bool:
    """States of large tensors lie in paged memory; scales and small ones on the device."""
    return name.startswith("state") and t.numel >= LEAST_PAGED


def kept(
    *names: str,
    bits: int,
    norm: bool = False,
    double: bool = False,
    in_full: Callable[[Tensor], bool] = _in_full,
    scaled: int = SCALED,
) -> Callable[[Tensor], Iterator[Stored]]:
    """States of a parameter.

    Args:
        names: of the states.
        bits: 8, a byte an element with a scale for 256, but of some in fp32; or 32, fp32.
        norm: one value more, of the update's norm.
        double: the first state holds two moments.
        in_full: which parameters keep fp32 under 8 bits.
        scaled: elements that share a scale.
    """

    def state(t: Tensor) -> Iterator[Stored]:
        full = bits == 32 or in_full(t)
        for i, name in enumerate(names, 1):
            twice = (("X", 2),) if double and i == 1 else ()
            yield name, (*twice, *t.axes), "fp32" if full else "uint8"
            if not full:
                yield f"absmax{i}", (*twice, ("X", -(-t.numel // scaled))), "fp32"
        if norm:
            yield "unorm_vec", (("X", 1),), "fp32"

    return state


def _optimizer(
    name: str, *states: str, bits: int, what: str, paged: bool = False, norm: bool = False, double: bool = False
) -> Optimizer:
    size = "in fp32" if bits == 32 else "of a byte an element"
    rest = ", large ones in paged memory" if paged else "" if bits == 32 else ", tables and small tensors in fp32"
    return Optimizer(
        name, kept(*states, bits=bits, norm=norm, double=double), steps.nothing, f"{what} {size}{rest}", BNB,
        hosted=_large if paged else None, once=maps(_in_full, len(states)) if bits == 8 else None,
    )  # fmt: skip


def _norms(trained: Trained) -> Group:
    """LAMB's norm of each parameter that keeps its states in full, of a copy in fp32."""
    for t, width, _ in trained:
        if _in_full(t):
            yield norm(t.numel, width)


def norm(elements: int, width: int) -> list[int]:
    """The norm of a tensor in fp32, and the copy that it is taken of. [byte]"""
    return [4 * elements if width < 4 else 0, 4]


ONE: Final = ("state1",)
TWO: Final = ("state1", "state2")

OPTIMIZERS: Final = (
    _optimizer("adamw-8bit", *TWO, bits=8, what="two moments"),
    _optimizer("paged-adamw-8bit", *TWO, bits=8, what="two moments", paged=True),
    _optimizer("adamw-bnb", *TWO, bits=32, what="two moments"),
    _optimizer("paged-adamw", *TWO, bits=32, what="two moments", paged=True),
    _optimizer("ademamix", *TWO, bits=32, what="three moments", double=True),
    _optimizer("ademamix-8bit", *TWO, bits=8, what="three moments", double=True),
    _optimizer("paged-ademamix", *TWO, bits=32, what="three moments", paged=True, double=True),
    _optimizer("paged-ademamix-8bit", *TWO, bits=8, what="three moments", paged=True, double=True),
    _optimizer("lion-bnb", *ONE, bits=32, what="one moment"),
    _optimizer("lion-8bit", *ONE, bits=8, what="one moment"),
    _optimizer("paged-lion", *ONE, bits=32, what="one moment", paged=True),
    _optimizer("paged-lion-8bit", *ONE, bits=8, what="one moment", paged=True),
    _optimizer("rmsprop-bnb", *ONE, bits=32, what="one second moment"),
    _optimizer("rmsprop-8bit", *ONE, bits=8, what="one second moment"),
    _optimizer("lamb-8bit", *TWO, bits=8, what="two moments", norm=True).but(step=_norms),
)
