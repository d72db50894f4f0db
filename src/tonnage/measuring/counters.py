"""Counters of devices: what torch 2.13 and the driver say is held, and at most since the last phase.

CUDA and ROCm have one interface. MPS has no peaks: a thread looks every few milliseconds, and so tells a lower bound.
A CPU has no counters: the profiler's memory events are added up, which tells what tensors asked for, to the byte.
"""

from __future__ import annotations

import gc
import os
import platform
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol

import torch

from tonnage.errors import InputError

TIERS: Final = {"requested": "requested_bytes", "allocated": "allocated_bytes", "reserved": "reserved_bytes"}
EVERY: Final = 0.002
"""Seconds between two looks at a device without peaks."""

Levels = dict[str, dict[str, int] | None]
"""For each tier what is held at the end of a phase and at most in it; None where the device does not tell. [byte]"""


class Counter(Protocol):
    """Counts on one device."""

    name: str

    def started(self) -> dict[str, Any]:
        """Make the context, and tell the device."""
        ...

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """What runs in a phase."""
        ...

    def told(self) -> Levels:
        """What is held now, and at most since the last time; what a CPU holds is told by ``ended`` alone."""
        ...

    def ended(self) -> dict[str, Levels]:
        """Levels by phase that only the end tells."""
        ...


def counter(device: str) -> Counter:
    """The counter of a device.

    Raises:
        InputError: torch sees no such device.
    """
    kind, _, index = device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda" and torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count():
        return Cuda(int(index or 0))
    if kind == "mps" and torch.backends.mps.is_available():
        return Mps()
    if kind == "cpu":
        return Cpu()
    raise InputError(
        f"torch {torch.__version__} sees no device {device}", key="device", value=device,
        hint="--device cpu measures what tensors take without one",
    )  # fmt: skip


class Cuda:
    """NVIDIA's and AMD's devices."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.name = f"cuda:{index}"

    def started(self) -> dict[str, Any]:
        """As in ``Counter``."""
        torch.cuda.set_device(self.index)
        torch.empty(1, device=self.name)
        torch.cuda.synchronize()
        gc.collect()
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self.index)
        p = torch.cuda.get_device_properties(self.index)
        torch.cuda.reset_peak_memory_stats(self.index)
        return {
            "kind": "rocm" if torch.version.hip else "cuda", "name": p.name, "total_bytes": total,
            "properties_bytes": p.total_memory, "multiprocessors": p.multi_processor_count,
            "architecture": getattr(p, "gcnArchName", "") if torch.version.hip else f"sm_{p.major}{p.minor}",
            "used_at_start_bytes": total - free,
        }  # fmt: skip

    def record(self) -> None:
        """Begin to record what the allocator does: actions, addresses and sizes alone."""
        torch.cuda.memory._record_memory_history("all", context=None, stacks="python", max_entries=2_000_000)

    def recorded(self) -> dict[str, Any]:
        """The recording, as ``tonnage replay`` reads it."""
        found = torch.cuda.memory._snapshot(self.index)
        torch.cuda.memory._record_memory_history(None)
        rows = found["device_traces"][self.index]
        own = [s for s in found["segments"] if s["device"] == self.index]
        keys = ("address", "total_size", "stream", "segment_type", "is_expandable", "segment_pool_id")
        return {
            "segments": [{**{k: s[k] for k in keys if k in s}, "blocks": _blocks(s)} for s in own],
            "events": [[e["action"], e.get("addr", 0), e["size"], e.get("stream", 0)] for e in rows],
            "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": os.environ.get("PYTORCH_ALLOC_CONF", "")},
        }

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """As in ``Counter``."""
        return nullcontext()

    def told(self) -> Levels:
        """As in ``Counter``."""
        torch.cuda.synchronize()
        stats = torch.cuda.memory_stats(self.index)
        free, total = torch.cuda.mem_get_info(self.index)
        found: Levels = {
            tier: {"end": int(stats.get(f"{key}.all.current", 0)), "peak": int(stats.get(f"{key}.all.peak", 0))}
            for tier, key in TIERS.items()
        }
        # The driver tells no peak: reserved memory is given back between phases by nobody, so its end is its peak.
        found["device"] = {"end": total - free, "peak": total - free}
        torch.cuda.reset_peak_memory_stats(self.index)
        return found

    def ended(self) -> dict[str, Levels]:
        """As in ``Counter``."""
        return {}


def _blocks(segment: dict[str, Any]) -> list[list[Any]]:
    """Blocks as address, size, requested size and state; older releases leave out the address."""
    out, at = [], segment["address"]
    for b in segment["blocks"]:
        out.append([b.get("address", at), b["size"], b.get("requested_size", 0), b["state"]])
        at += b["size"]
    return out


class Mps:
    """Apple's devices."""

    name = "mps"

    def __init__(self) -> None:
        self.most = [0, 0]
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def started(self) -> dict[str, Any]:
        """As in ``Counter``."""
        torch.empty(1, device="mps")
        torch.mps.synchronize()
        self.thread.start()
        total = int(torch.mps.recommended_max_memory())
        return {
            "kind": "mps",
            "name": platform.processor() or platform.machine(),
            "total_bytes": total,
            "sampled": True,
        }

    def _look(self) -> None:
        while not self.stop.wait(EVERY):
            self._note()

    def _note(self) -> tuple[int, int]:
        now = (int(torch.mps.current_allocated_memory()), int(torch.mps.driver_allocated_memory()))
        self.most = [max(a, b) for a, b in zip(self.most, now, strict=True)]
        return now

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """As in ``Counter``."""
        return nullcontext()

    def told(self) -> Levels:
        """As in ``Counter``."""
        torch.mps.synchronize()
        now = self._note()
        most, self.most = self.most, list(now)
        return {
            "requested": None,
            "allocated": {"end": now[0], "peak": most[0]},
            "reserved": {"end": now[1], "peak": most[1]},
            "device": None,
        }

    def ended(self) -> dict[str, Levels]:
        """As in ``Counter``."""
        self.stop.set()
        return {}


class Cpu:
    """No device: what tensors ask of the host, by the profiler's memory events."""

    name = "cpu"
    PREFIX = "tonnage phase "

    def __init__(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def started(self) -> dict[str, Any]:
        """As in ``Counter``."""
        self.profiler.__enter__()
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
        return {"kind": "cpu", "name": platform.machine(), "total_bytes": pages}

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """As in ``Counter``."""
        found: AbstractContextManager[Any] = torch.profiler.record_function(f"{self.PREFIX}{name}")
        return found

    def told(self) -> Levels:
        """As in ``Counter``."""
        return dict.fromkeys((*TIERS, "device"))

    def ended(self) -> dict[str, Levels]:
        """Sums of the profiler's events by phase."""
        self.profiler.__exit__(None, None, None)
        results = getattr(self.profiler.profiler, "kineto_results", None)
        if results is None:
            return {}
        events = results.events()
        spans = [
            (e.start_ns(), e.start_ns() + e.duration_ns(), e.name().removeprefix(self.PREFIX))
            for e in events
            if e.name().startswith(self.PREFIX)
        ]
        changes = sorted((e.start_ns(), i, e.nbytes()) for i, e in enumerate(events) if e.name() == "[memory]")
        return {name: self._levels(changes, start, stop) for start, stop, name in spans}

    @staticmethod
    def _levels(changes: list[tuple[int, int, int]], start: int, stop: int) -> Levels:
        now = most = 0
        for time, _, change in changes:
            if time > stop:
                break
            if time < start:
                now += change
                most = now
            else:
                now += change
                most = max(most, now)
        told: Levels = dict.fromkeys((*TIERS, "device"))
        told["requested"] = {"end": now, "peak": most}
        return told
