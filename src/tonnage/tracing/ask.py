"""From what a caller says to a result: settle, run the process, make the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.allocator import Settings, parse
from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import InputError, nearest
from tonnage.estimate.result import Result
from tonnage.estimate.summary import caching, summary
from tonnage.memory.overhead import cublas_workspace
from tonnage.record import Record
from tonnage.tracing.answer import result
from tonnage.tracing.known import told
from tonnage.tracing.process import Limits, available, traced
from tonnage.tracing.request import OWN_KERNELS, Request, capability, serving, training
from tonnage.tracing.stream import Traced
from tonnage.units import parse_bytes
from tonnage.workload.serving import Serve
from tonnage.workload.training import Train

CALLS: Final = 2
"""Calls of a user's function: the second is the steady state."""


class Asked(Record):
    """Keys of a trace that no workload has.

    Args:
        head: the class to trace.
        layers: "few" repeats identical ones, "all" runs each.
        backend: "cuda" (a stand-in), "meta", or None for what the precision needs.
        settings: of the allocator.
        limits: of the process.
        calls: of a function.
        item: what reading a number out of a tensor gives.
    """

    head: str | None = None
    layers: str = "few"
    backend: str | None = None
    settings: Settings | None = None
    limits: Limits = Limits()
    calls: int = CALLS
    item: float | None = None


def taken(said: dict[str, Any]) -> Asked:
    """Take the keys of a trace out of what was said.

    Raises:
        InputError: a value outside its set.
    """
    given = {
        key: said.pop(key, None) for key in ("head", "layers", "backend", "alloc_conf", "max_seconds", "max_memory")
    }
    given |= {key: said.pop(key, None) for key in ("calls", "item")}
    _one_of("layers", given["layers"], ("few", "all"))
    _one_of("backend", given["backend"], ("cuda", "meta"))
    default = Limits()
    memory = given["max_memory"]
    limits = Limits(
        seconds=_number("max_seconds", given["max_seconds"], default.seconds),
        memory=default.memory if memory is None else parse_bytes(str(memory), key="max_memory"),
    )
    return Asked(
        head=given["head"],
        layers=given["layers"] or "few",
        backend=given["backend"],
        settings=None if given["alloc_conf"] is None else parse(given["alloc_conf"]),
        limits=limits,
        calls=int(_number("calls", given["calls"], CALLS)),
        item=None if given["item"] is None else _number("item", given["item"], 0.0, least=None),
    )


def _one_of(key: str, value: Any, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise InputError(
            f"{key} is one of {', '.join(choices)}, not {value!r}",
            key=key,
            value=value,
            nearest=nearest(str(value), choices),
        )


def _number(key: str, value: Any, default: float, *, least: float | None = 1.0) -> float:
    if value is None:
        return default
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if found != found or abs(found) == float("inf") or (least is not None and found < least):
        raise InputError(
            f"{key} is a number{'' if least is None else ' of at least 1'}, not {value!r}", key=key, value=value
        )
    return found


def workload_of(task: str | None) -> Any:
    """The kind of workload that a task has.

    Raises:
        InputError: none is named, or there is none of that name.
    """
    kinds = {"train": Train, "serve": Serve}
    if task not in kinds:
        said = "no task is named" if task is None else f"task is train or serve, not {task!r}"
        raise InputError(said, key="task", value=task, hint="--task train or --task serve")
    return kinds[task]


def model(
    config: Mapping[str, Any], name: str, w: Train | Serve, where: tuple[Device | None, int], known: Model | None,
    asked: Asked,
) -> Result:  # fmt: skip
    """Trace a model.

    Args:
        config: as written.
        name: of the model.
        w: the workload.
        where: the device and what others hold of it. [byte]
        known: the model as tonnage reads it, which knows its active parameters; None where it does not.
        asked: of the trace.
    """
    device, _ = where
    settle = training if isinstance(w, Train) else serving
    head = asked.head or own_head(config, known)
    request: Request = settle(config, w, device, name=name or str(config.get("model_type")), head=head)  # type: ignore[arg-type]
    more = told(known, w, request.job["seq"]) if isinstance(w, Train) else {}
    job = {**request.job, **more, "kind": "model", "layers": asked.layers, "backend": asked.backend}
    found = traced(job, asked.limits)
    found = found.but(told={**found.told, "workload": request.workload, "model": _model(found, known, request)})
    return of_trace(found, where, settings=asked.settings, caveats=request.caveats)


def own_head(config: Mapping[str, Any], known: Model | None) -> str | None:
    """The family's own head, where the config names no class."""
    if known is None or config.get("architectures"):
        return None
    if known.head is None:
        return "none"
    return "seq2seq" if len(known.stacks) > 1 else "causal" if known.causal else "masked"


def of_trace(
    found: Traced, where: tuple[Device | None, int], *, settings: Settings | None = None, caveats: tuple[str, ...] = ()
) -> Result:
    """The result of a trace that was just made, or read from a file."""
    device, in_use = where
    return result(
        found, model=found.told["model"], workload=found.told["workload"], device=device, in_use=in_use,
        settings=settings, caveats=caveats,
    )  # fmt: skip


def _model(found: Traced, known: Model | None, request: Request) -> dict[str, Any]:
    """The model of the JSON contract; the traced class has the last word on its parameters."""
    told = found.told
    count, trainable = told["parameters"], told["trainable"] if request.workload["task"] == "train" else 0
    if known is not None and known.parameters.total == count:
        return summary(known, trainable=trainable)
    return {
        "name": request.workload["model"], "parameters": count, "active_parameters": count,
        "active_parameters_without_embedding": count, "stored_parameters": count, "trainable_parameters": trainable,
    }  # fmt: skip


def is_function(text: str) -> bool:
    """Whether a text names a function: ``train.py:step``, ``package.module:step``.

    >>> is_function("train.py:step"), is_function("llama-3.1-8b"), is_function("https://host/x")
    (True, False, False)
    """
    target, colon, name = text.rpartition(":")
    return bool(colon) and name.isidentifier() and bool(target) and "://" not in text


def function(target: str, said: dict[str, Any], where: tuple[Device | None, int]) -> Result:
    """Trace a user's own function.

    Raises:
        InputError: keys of a model's workload, or the code needs data.
    """
    asked = taken(said)
    others = {key: value for key, value in said.items() if value not in (None, (), False)}
    if others or asked.head is not None:
        key = next(iter(others), "head")
        raise InputError(f"{key} describes a model's workload, and {target} is a function", key=key, value=target)
    device, _ = where
    job = {
        "kind": "own", "target": target, "calls": asked.calls, "item": asked.item, "backend": asked.backend,
        "kernels": list(OWN_KERNELS), "capability": list(capability(device)),
        "workspace": cublas_workspace(device.architecture if device is not None else "") if caching(device) else 0,
    }  # fmt: skip
    found = traced(job, asked.limits)
    from tonnage.tracing.told import model_told

    workload = {"task": "trace", "target": target, "calls": asked.calls}
    found = found.but(told={**found.told, "workload": workload, "model": model_told(found.told)})
    return of_trace(found, where, settings=asked.settings)


def context(**said: Any) -> Any:
    """The context manager around any PyTorch code.

    Raises:
        UnsupportedError: torch is not installed.
    """
    available()
    from tonnage.tracing.context import Tracing

    asked = taken(said)
    if said:
        raise InputError(f"unknown key {next(iter(said))!r}", key=next(iter(said)))
    return Tracing(item=asked.item, backend=asked.backend, workspace=cublas_workspace(""))
