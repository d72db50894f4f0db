"""A measurement in a process of its own, with a limit: a fresh context, and nothing of torch stays behind."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final

from tonnage import child
from tonnage.errors import UnsupportedError

HINT: Final = "pip install 'tonnage[trace]'"
SETTINGS: Final = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""The allocator's: the first is read up to torch 2.9, and on ROCm beside its own name, the last since."""


def available(job: Mapping[str, Any]) -> None:
    """Raise unless what the job needs is installed.

    Raises:
        UnsupportedError: it is not.
    """
    needed = ["torch", "transformers", *(["peft"] if job.get("lora") else [])]
    for name in needed:
        if find_spec(name) is None:
            raise UnsupportedError(f"measuring needs {name}, which is not installed", key="measure", hint=HINT)


def measured(job: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Run a job.

    Args:
        job: the workload, settled, with the ``device``.
        seconds: that it may take.

    Returns:
        What the process told: versions, device, phases, and ``out_of_memory`` where it ended so.

    Raises:
        UnsupportedError: something is not installed, or it cannot be measured.
        InputError: no such device.
    """
    available(job)
    settings = str(job.get("alloc_conf") or "")
    return child.asked(
        "tonnage.measuring.child", job, seconds, environment=dict.fromkeys(SETTINGS, settings) if settings else {},
        key="measure", limits="--max-seconds sets its limit",
    )  # fmt: skip
