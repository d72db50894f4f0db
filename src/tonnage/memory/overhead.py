"""What is not a tensor: library workspaces, fragmentation, the device context.

Every figure here is a labelled reserve. Those without a rule are ``assumed``: they have a range and its basis, and go
when a model or a measurement takes their place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tonnage.units import MiB

if TYPE_CHECKING:
    from tonnage.devices import Device

CUBLAS_REFERENCE: Final = (
    "https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/cuda/CublasHandlePool.cpp (getChosenWorkspaceSize)"
)

FRAGMENTATION: Final = (0.0, 0.15, 0.55)
"""Low, typical and high share of what comes and goes: the peak less what is resident."""
FRAGMENTATION_BASIS: Final = (
    "reserved less allocated, over allocated peak less resident: 0.08 to 0.51, median 0.19, on 10 LoRA runs on a T4 "
    "(fitcheck-llm 0.3.1); 2 to 8 % of the whole peak, median 4.5 %, on 12 Megatron runs on B200 (SimuMax v1.1)"
)

CONTEXT: Final = (140 * MiB, 500 * MiB, 1024 * MiB)
CONTEXT_BASIS: Final = (
    "CUDA context of one process: 141 MiB on a T4 (fitcheck-llm 0.3.1), about 705 MiB on an RTX A6000 with CUDA 13 "
    "(vramcalc 0.1.2)"
)


class Context(NamedTuple):
    """What a process holds on a device beside what its allocator reserves."""

    low: int
    """[byte]"""
    typical: int
    high: int
    basis: str
    measured: bool
    """Whether it was measured on such a device; else it is assumed."""


def context(device: Device | None) -> Context:
    """The context of a process of PyTorch on a device: measured there, else assumed, never below a bare one.

    Args:
        device: its row; None where none is named.

    Leaves out: communicators, and libraries that take memory of their own.

    >>> context(None).typical
    524288000
    """
    low, typical, high = CONTEXT
    if device is None or device.context_source is None:
        return Context(low, typical, high, CONTEXT_BASIS, measured=False)
    low = device.context_low_bytes or low
    words = f"CUDA context of one process: {device.context_source}"
    if device.context_bytes is None:
        return Context(low, max(typical, low), max(high, low), f"{words}; the rest is assumed", measured=False)
    return Context(low, device.context_bytes, device.context_high_bytes or high, words, measured=True)


def cublas_workspace(architecture: str) -> int:
    """The workspace that each thread with a matrix product holds for the life of the process. [byte]

    Args:
        architecture: as ``sm_90``; empty when unknown.

    >>> cublas_workspace("sm_90"), cublas_workspace("sm_80")
    (33554432, 8519680)
    """
    major = architecture.removeprefix("sm_").rstrip("abf")[:-1] if architecture.startswith("sm_") else ""
    return 32 * MiB if major in ("9", "10", "12") else (2 * 4096 + 8 * 16) * 1024
