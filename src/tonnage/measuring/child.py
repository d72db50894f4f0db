"""The measured process: reads a job, runs it, writes what the counters said."""

from __future__ import annotations

import gzip
import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch

from tonnage.errors import InputError, TonnageError
from tonnage.measuring import runs
from tonnage.measuring.counters import Counter, Cuda, Levels, counter


class Phases:
    """Counts phase by phase.

    Args:
        counts: of the device.
        now: file that names the phase that runs, for who finds the process dead.
    """

    def __init__(self, counts: Counter, now: str) -> None:
        self.counts, self.now = counts, now
        self.told: list[tuple[str, Levels]] = []
        self.current = ""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """A phase; it is counted when it ends well."""
        self.current = name
        with open(self.now, "w", encoding="utf-8") as file:
            file.write(name)
        with self.counts.phase(name):
            yield
        self.told.append((name, self.counts.told()))

    def rows(self) -> list[dict[str, Any]]:
        """Every phase with its tiers; phases of one name, as accumulated passes are, one after the other."""
        late = self.counts.ended()
        return [{"phase": name, **(late.get(name) or levels)} for name, levels in self.told]


def run(job: Mapping[str, Any], now: str) -> dict[str, Any]:
    """One job."""
    counts = counter(job["device"])
    row: dict[str, Any] = {"versions": versions(), "device": counts.started()}
    phases = Phases(counts, now)
    if job.get("record"):
        if not isinstance(counts, Cuda):
            raise InputError("only CUDA's and ROCm's allocators are recorded", key="record", value=job["record"])
        counts.record()
    torch.manual_seed(0)
    since = time.monotonic()
    try:
        with phases("load"):
            model = runs.tuned(runs.built(job, counts.name), job)
        row["parameters"] = sum(p.numel() for p in model.parameters())
        row["trainable"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        (runs.train if job["task"] == "train" else runs.serve)(model, job, phases, counts.name)
    except RuntimeError as e:
        # MPS has no error of its own for it.
        if not isinstance(e, torch.OutOfMemoryError) and "out of memory" not in str(e):
            raise
        message = (str(e).splitlines() or [""])[0][:300]
        row["out_of_memory"] = {"phase": phases.current, "message": message, "levels": counts.told()}
    row["seconds"] = round(time.monotonic() - since, 3)
    if counts.name.startswith("cuda"):
        stats = torch.cuda.memory_stats()
        row["retries"], row["ooms"] = int(stats.get("num_alloc_retries", 0)), int(stats.get("num_ooms", 0))
    row["phases"] = phases.rows()
    if job.get("record") and isinstance(counts, Cuda):
        with gzip.open(job["record"], "wt", encoding="utf-8") as file:
            json.dump(counts.recorded(), file, separators=(",", ":"))
    return row


def versions() -> dict[str, str | None]:
    """Releases of all that decides."""
    found: dict[str, str | None] = {
        "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "hip": torch.version.hip, "system": f"{platform.system()} {platform.release()}",
    }  # fmt: skip
    with suppress(Exception):
        cudnn = torch.backends.cudnn.version()
        found["cudnn"] = None if cudnn is None else str(cudnn)
    for name in ("transformers", "peft"):
        module = sys.modules.get(name)
        if module is None:
            with suppress(ImportError):
                module = __import__(name)
        found[name] = getattr(module, "__version__", None)
    return found


def main(asked: str, told: str, now: str) -> int:
    """Read, run, write."""
    with open(asked, encoding="utf-8") as file:
        job = json.load(file)
    try:
        row = run(job, now)
    except TonnageError as e:
        row = {"error": e.as_dict()}
    with open(told, "w", encoding="utf-8") as file:
        json.dump(row, file)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
