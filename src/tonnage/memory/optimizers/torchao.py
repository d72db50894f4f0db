"""The optimizers of torchao.

Reference: https://github.com/pytorch/ao/blob/v0.16.0/torchao/optim/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tonnage.memory import steps
from tonnage.memory.optimizers import LEAST_8BIT, Optimizer, Stored, like
from tonnage.memory.optimizers.plain import adam_fused
from tonnage.tensors import Tensor

AO: Final = "https://github.com/pytorch/ao/blob/v0.16.0/torchao/optim/"
COMPILED: Final = "what the optimizer's compiled step takes for a moment"


def _low_bit(bits: int, block: int, map_entries: int, form: str) -> Callable[[Tensor], Iterator[Stored]]:
    """torchao: codes, a scale for every block, and a map of its own for each state; others as the parameter is."""

    def state(t: Tensor) -> Iterator[Stored]:
        n = t.numel
        for name in ("exp_avg", "exp_avg_sq"):
            if n < LEAST_8BIT or n % block:
                yield name, t.axes, None
                continue
            yield f"{name}.codes", (("X", n * bits // 8),), form
            yield f"{name}.scale", (("X", n // block),), "fp32"
            if map_entries:
                yield f"{name}.qmap", (("X", map_entries),), "fp32"

    return state


def _offloaded(t: Tensor) -> Iterator[Stored]:
    """A fused step's own on either side; where it runs on the host, a copy of the parameter and of its gradient."""
    if t.numel >= LEAST_8BIT:
        yield from like("weight", "gradient")(t)
    yield from adam_fused(t)


OPTIMIZERS: Final = (
    Optimizer(
        "adamw-8bit-ao",
        _low_bit(8, 256, 256, "uint8"),
        steps.nothing,
        "two moments of a byte an element",
        AO,
        rough=COMPILED,
    ),
    Optimizer(
        "adamw-4bit-ao",
        _low_bit(4, 128, 16, "uint8"),
        steps.nothing,
        "two moments of half a byte an element",
        AO,
        rough=COMPILED,
    ),
    Optimizer("adamw-fp8-ao", _low_bit(8, 256, 0, "fp8_e4m3"), steps.nothing, "two moments in fp8", AO, rough=COMPILED),
    Optimizer(
        "adamw-offload-ao",
        _offloaded,
        steps.nothing,
        "weights, gradients and two moments, pinned on the host",
        AO,
        hosted=lambda t, name: t.numel >= LEAST_8BIT,
    ),
)
