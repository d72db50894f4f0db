"""A measurement joined to its prediction and its trace: the same workload three ways, and how far each is off."""

from __future__ import annotations

import os
from collections.abc import Mapping
from time import strftime
from typing import Any, Final

from tonnage import api
from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import InputError, SourceError, TonnageError
from tonnage.estimate.result import Result
from tonnage.record import Record
from tonnage.timeline import TIERS
from tonnage.workload import workload

VISIBLE: Final = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""What hides devices from a process, and numbers the others anew."""
SECONDS: Final = 600.0


class Asked(Record):
    """How to measure.

    Args:
        where: ``auto``, ``cuda``, ``cuda:1``, ``mps`` or ``cpu``.
        seconds: that the process may take.
        trace: whether the workload is traced as well.
        alloc_conf: settings of the caching allocator.
        record: file for what the allocator does, which ``replay`` reads.
        id: of the row.
    """

    where: str = "auto"
    seconds: float = SECONDS
    trace: bool = True
    alloc_conf: str | None = None
    record: str | None = None
    id: str = ""


def measure(
    source: api.ModelLike,
    *,
    task: str,
    head: str | None = None,
    device: str = "auto",
    max_seconds: float | str = 600.0,
    traced: bool = True,
    alloc_conf: str | None = None,
    record: str | None = None,
    id: str = "",
    **said: Any,
) -> dict[str, Any]:
    """The real code with random weights and data on the device that is there, in a process of its own.

    Args:
        source: as ``load`` takes it; nothing but its config is read.
        task: "train" or "serve".
        head: the class that runs.
        device: "auto", "cuda", "cuda:1", "mps" or "cpu".
        max_seconds: that it may take.
        traced: whether the workload is traced as well.
        alloc_conf: settings of the caching allocator.
        record: file for a recording of the caching allocator, which ``replay`` reads.
        id: of the row.
        said: keys of the workload.

    Returns:
        A row: configuration, releases, device, peaks by phase, errors of the prediction and of the trace.

    Raises:
        UnsupportedError: torch is not installed, or the workload is not measured.
        InputError: no such device, or a contradictory workload.
    """
    from tonnage.sources import described

    raw = None if isinstance(source, Model) else described(source)
    if raw is None:
        raise InputError("a measurement needs the config: name the model, or give its config", key="model")
    try:
        seconds = float(max_seconds)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise InputError(f"max_seconds = {max_seconds} is no time", key="max_seconds", value=str(max_seconds))
    asked = Asked(where=device, seconds=seconds, trace=traced, alloc_conf=alloc_conf, record=record, id=id)
    return measured(raw, task, said, head, asked)


def calibrate(row: Mapping[str, Any], path: str) -> int:
    """Keep what a measured row says of its device; ``train`` and ``serve`` take it from there with ``calibration``.

    Raises:
        InputError: it says nothing, or the file is no calibration.
        SourceError: the file cannot be written.
    """
    from tonnage.sources.calibration import added

    return added(path, *sample(row))


def measured(raw: Any, task: str, said: Mapping[str, Any], head: str | None, asked: Asked) -> dict[str, Any]:
    """One row.

    Args:
        raw: a model's config with its name, as ``sources.described`` gives it.
        task: ``train`` or ``serve``.
        said: keys of the workload.
        head: the class that runs; None for the config's own.
        asked: how.

    Raises:
        UnsupportedError: torch is not installed, or the workload is not measured.
        InputError: the workload is wrong, or there is no such device.
    """
    from tonnage.measuring.process import available, measured
    from tonnage.tracing import request

    if task not in ("train", "serve"):
        raise InputError("a measurement needs a task", key="task", value=task, hint="--task train or --task serve")
    kind = _kind(task)
    w = workload(kind, {key: value for key, value in said.items() if value is not None})
    settle: Any = request.training if task == "train" else request.serving
    found = settle(raw.config, w, None, name=raw.name, head=head)
    job = {**found.job, "device": asked.where, "alloc_conf": asked.alloc_conf, "kernel": _kernel(w.attention)}
    job["record"] = None if asked.record is None else os.path.abspath(asked.record)
    available(job)
    here, others = _here(asked.where)
    row = measured(job, asked.seconds)
    row = {
        "schema": 1, "id": asked.id, "date": strftime("%Y-%m-%d"), "model": raw.name, "config": dict(raw.config),
        "workload": found.workload, "head": head, "alloc_conf": asked.alloc_conf, **row,
    }  # fmt: skip
    row["device"] |= {"row": None if here is None else here.name, "used_by_others_bytes": others}
    row["peaks"] = peaks(row["phases"])
    row["steady"] = peaks(steady(row["phases"]))
    row["context_bytes"] = context(row)
    row["fragmentation"] = fragmentation(row)
    named = here.name if here is not None and here.name != "here" else None
    row["prediction"] = _beside(row, lambda: _predicted(raw, task, said, head, named))
    row["trace"] = _beside(row, lambda: _traced(raw, task, said, head, named)) if asked.trace else None
    return row


def _kind(task: str) -> Any:
    if task == "train":
        from tonnage.workload.training import Train

        return Train
    from tonnage.workload.serving import Serve

    return Serve


def _kernel(attention: str | None) -> str | None:
    return attention if attention in ("flash", "efficient", "math") else None


def _here(where: str) -> tuple[Device | None, int | None]:
    """The device at hand by the table, and what others hold on it before the run. [byte]"""
    if where in ("cpu", "mps"):
        return None, None
    from tonnage.sources.here import here

    index = _physical(where.partition(":")[2])
    try:
        found = here(index=index) if index is not None else None
    except SourceError:
        found = None
    return (None, None) if found is None else (found.device, found.in_use)


def _physical(index: str) -> int | None:
    """The driver's number of a device that torch numbers among those that it may see; None where it cannot be told."""
    number = int(index) if index.isdigit() else 0
    seen = next((os.environ[key] for key in VISIBLE if os.environ.get(key)), None)
    if seen is None:
        return number
    names = [name.strip() for name in seen.split(",")]
    return int(names[number]) if number < len(names) and names[number].isdigit() else None


def peaks(phases: list[dict[str, Any]]) -> dict[str, int | None]:
    """The most of each tier over some phases; None where no phase tells it. [byte]"""
    out: dict[str, int | None] = {}
    for tier in TIERS:
        told = [p[tier]["peak"] for p in phases if p.get(tier) is not None]
        out[tier] = max(told) if told else None
    return out


def steady(phases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The phases that an answer speaks of: those of the last step, or of the request."""
    steps = [int(p["phase"][4:].partition(".")[0]) for p in phases if p["phase"].startswith("step")]
    if not steps:
        return [p for p in phases if p["phase"] != "load"]
    return [p for p in phases if p["phase"].startswith(f"step{max(steps)}.")]


def context(row: Mapping[str, Any]) -> int | None:
    """What the driver tells beyond what the allocator reserves and others hold. [byte]"""
    last = row["phases"][-1] if row["phases"] else {}
    if last.get("device") is None or last.get("reserved") is None:
        return None
    others = row["device"].get("used_by_others_bytes") or 0
    return max(0, int(last["device"]["end"]) - int(last["reserved"]["end"]) - int(others))


def fragmentation(row: Mapping[str, Any]) -> float | None:
    """Reserved less allocated at their peaks, over the allocated peak less what is resident between steps."""
    now, last = row["steady"], row["phases"][-1] if row["phases"] else {}
    if now["reserved"] is None or now["allocated"] is None or last.get("allocated") is None:
        return None
    moving = now["allocated"] - int(last["allocated"]["end"])
    return round((now["reserved"] - now["allocated"]) / moving, 6) if moving > 0 else None


def _predicted(raw: Any, task: str, said: Mapping[str, Any], head: str | None, named: str | None) -> Result:
    given = {key: value for key, value in said.items() if value is not None}
    model = api.load({"config": raw.config, "name": raw.name}, head=head, ignore_unknown=True)
    answer: Result = (api.train if task == "train" else api.serve)(model, suggest=False, **{"gpu": named, **given})
    return answer


def _traced(raw: Any, task: str, said: Mapping[str, Any], head: str | None, named: str | None) -> Result:
    given = {key: value for key, value in said.items() if value is not None}
    answer: Result = api.trace(
        {"config": raw.config, "name": raw.name},
        task=task,
        **{"gpu": named, **given, **({"head": head} if head else {})},
    )
    return answer


def _beside(row: Mapping[str, Any], ask: Any) -> dict[str, Any]:
    """What another way says, and by how much it is off where both tell a tier: (said - measured) / measured."""
    try:
        result: Result = ask()
    except TonnageError as e:
        return {"refused": str(e)[:300]}
    if row.get("out_of_memory"):
        return {f"{tier}_bytes": result.fullest.tier(tier) for tier in TIERS}
    out: dict[str, Any] = {"peak": result.fullest.peak.name}
    for tier in TIERS:
        said, told = result.fullest.tier(tier), row["steady"][tier]
        out[f"{tier}_bytes"] = said
        out[f"{tier}_error"] = round((said - told) / told, 6) if told else None
    return out


def sample(row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A device and what a run says of it, for a calibration.

    Raises:
        InputError: the run tells nothing of the kind: a CPU has no context.
    """
    name = row["device"]["row"] if row["device"]["row"] not in (None, "here") else row["device"]["name"]
    if row["context_bytes"] is None or row["fragmentation"] is None or row.get("out_of_memory"):
        raise InputError(
            f"the run on {name} tells no context and no fragmentation to keep",
            key="calibrate", value=row["device"]["kind"],
            hint="calibrate on a CUDA or ROCm device, with a workload that fits",
        )  # fmt: skip
    return name, {
        "context_bytes": row["context_bytes"], "fragmentation": max(0.0, row["fragmentation"]), "date": row["date"],
        "id": row["id"] or row["model"], "versions": row["versions"],
    }  # fmt: skip
