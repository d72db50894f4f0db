"""A trace in a process of its own, with limits: torch is imported, patched and thrown away with it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final

from tonnage import child
from tonnage.errors import UnsupportedError
from tonnage.record import Record
from tonnage.tracing.stream import Traced, from_dict
from tonnage.units import GiB, gib

GRACE: Final = 5.0
"""Seconds that a process has to end itself at its limit, before it is ended."""
ENVIRONMENT: Final = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
"""Tensors have no data: a device at hand is not to be touched."""


class Limits(Record):
    """What a traced process may take.

    Args:
        seconds: of time.
        memory: of the host, resident. [byte]
    """

    seconds: float = 600.0
    memory: int = 8 * GiB


def available() -> None:
    """Raise unless torch is installed.

    Raises:
        UnsupportedError: it is not.
    """
    if find_spec("torch") is None:
        raise UnsupportedError(
            "tracing needs torch, which is not installed", key="trace", hint="pip install 'tonnage[trace]'"
        )


def traced(job: Mapping[str, Any], limits: Limits = Limits()) -> Traced:  # noqa: B008
    """Run a job.

    Args:
        job: what is traced.
        limits: of the process.

    Raises:
        UnsupportedError: torch is not installed, it cannot be traced, or a limit was reached.
        InputError: the code that is traced needs data, or is wrong.
    """
    available()
    if job["kind"] == "model" and find_spec("transformers") is None:
        raise UnsupportedError(
            "models are traced with transformers, which is not installed",
            key="trace",
            hint="pip install 'tonnage[trace]'",
        )
    held = {"seconds": limits.seconds, "memory": limits.memory}
    found = child.asked(
        "tonnage.tracing.child", {**job, "limits": held}, limits.seconds + GRACE, environment=ENVIRONMENT,
        key="trace", limits=f"--max-seconds and --max-memory set its limits ({gib(limits.memory)})",
    )  # fmt: skip
    return from_dict(found)
