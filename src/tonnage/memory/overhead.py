"""What is not a tensor: library workspaces, fragmentation, the device context.

Every figure here is a labelled reserve. Those without a rule are ``assumed``: they have a range and its basis, and go
when a model or a measurement takes their place.
"""

from __future__ import annotations

from typing import Final

from tonnage.units import MiB

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


def cublas_workspace(architecture: str) -> int:
    """The workspace that each thread with a matrix product holds for the life of the process. [byte]

    Args:
        architecture: as ``sm_90``; empty when unknown.

    >>> cublas_workspace("sm_90"), cublas_workspace("sm_80")
    (33554432, 8519680)
    """
    major = architecture.removeprefix("sm_").rstrip("abf")[:-1] if architecture.startswith("sm_") else ""
    return 32 * MiB if major in ("9", "10", "12") else (2 * 4096 + 8 * 16) * 1024
