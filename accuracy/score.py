"""Predict a case through tonnage's public API, compare, and sum up a group."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final

import tonnage as tn
from accuracy.cases import Case
from accuracy.operators import measured
from tonnage.api import replay

RECORDINGS: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recordings")
"""Of the caching allocator: the model of a case of task ``replay`` is the name of one."""


def _layer_saved(result: Any) -> int:
    """What one layer keeps for the backward pass: the terms of the lines that stand once for every layer."""
    lines = [c for c in result.components if c.name == "activations"]
    if sum("saved by a" in c.why for c in lines) != 1:
        raise LookupError("no single line tells what a layer keeps")
    # In fp32 a layer keeps its input too, which has a line of its own.
    return sum(value for c in lines if "saved by a" in c.why or "layer inputs" in c.why for _, _, value in c.terms)


def _tier(name: str) -> Callable[[Any], int]:
    return lambda result: int(result.fullest.tier(name))


def _buffers(result: Any) -> int:
    """What the model holds beside its weights: a loop that moves parameters alone leaves it with the host."""
    return int(sum(c.bytes for c in result.fullest.components if c.name == "other:buffers"))


def _beside_trained(result: Any) -> int:
    """What the peak holds beside weights, states, and all gradients, whether these are there by then or not."""
    resident = ("weights", "other:buffers", "optimizer_state")
    lines = sum(c.bytes for c in result.fullest.components if c.name in resident)
    return int(result.fullest.tier("allocated") - lines - 4 * result.model["trainable_parameters"])


def _printed(buffer: str, what: str, nth: int = 0, *, draft: bool = False) -> Callable[[Any], int]:
    """The size that llama.cpp's log prints for a buffer, the ``nth`` of its kind on one device."""

    def read(result: Any) -> int:
        log = result.capacity["log"]
        second = next((i for i, line in enumerate(log) if "loading draft model" in line), len(log))
        part = log[second:] if draft else log[:second]
        lines = [line for line in part if f" {buffer} " in line and f" {what} buffer size = " in line]
        return round(float(lines[nth].split(" = ")[1].split()[0]) * 2**20) if nth < len(lines) else 0

    return read


def _projected(buffer: str) -> Callable[[Any], int]:
    """The size that llama.cpp's log prints for a buffer of the projector; "size" is its file's."""
    text = "load_hparams: model size:" if buffer == "size" else f" {buffer} compute buffer size ="

    def read(result: Any) -> int:
        lines = [line for line in result.capacity["log"] if line.startswith(("load_hparams", "reserve_compute_meta"))]
        line = next((line for line in lines if text in line), None)
        return round(float(line.split()[-2]) * 2**20) if line is not None else 0

    return read


LLAMACPP: Final = {
    f"{'draft ' if draft else ''}{buffer} {what}{' 2' if nth else ''}": _printed(buffer, what, nth, draft=draft)
    for draft in (False, True)
    for buffer in ("CUDA0", "CUDA1", "CUDA2", "CUDA3", "CPU", "CUDA_Host", "CPU_Mapped", "CPU_REPACK")
    for what in ("model", "KV", "RS", "compute", "output")
    for nth in (0, 1)
} | {f"projector {buffer}": _projected(buffer) for buffer in ("size", "CUDA0", "CPU")}
"""Counters named after the lines of llama.cpp's log."""

COUNTERS: Final[Mapping[str, Callable[[Any], int]]] = {
    "parameters": lambda model: int(model.parameters.total),
    "kv_bytes": lambda result: int(result.capacity["kv_bytes"]),
    "kv_bytes_per_token": lambda result: int(result.capacity["kv_bytes_per_token"]),
    "requested": _tier("requested"),
    "allocated": _tier("allocated"),
    "reserved": _tier("reserved"),
    "reserved_without_buffers": lambda result: result.fullest.tier("reserved") - _buffers(result),
    "device": _tier("device"),
    "pool": lambda result: sum(c.bytes for c in result.fullest.components if c.name == "kv_cache"),
    "tokens": lambda result: int(result.capacity["tokens"]),
    "blocks": lambda result: int(result.capacity["blocks"]),
    "weights": lambda result: sum(c.bytes for c in result.components if c.name == "weights"),
    "loaded": lambda result: sum(c.bytes for c in result.components if c.name in ("weights", "rounding")),
    "last_instant": lambda result: int(result.fullest.instants[-1].bytes),
    "planned": lambda result: sum(c.bytes for c in result.components if c.name in ("kv_cache", "activations")),
    "layer_saved": _layer_saved,
    "beside_trained": _beside_trained,
    "replayed_reserved": lambda answer: int(answer.replayed.reserved),
    "replayed_allocated": lambda answer: int(answer.replayed.allocated),
    "asked_reserved": lambda answer: int(answer.outcome.reserved),
    "peak": int,
    **LLAMACPP,
}
"""Field of a result (for ``parameters``, of a model) that a measured figure is compared with."""

ASK: Final[Mapping[str, Callable[..., Any]]] = {"train": tn.train, "serve": tn.serve}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case: ``predicted``, or None with the reason in ``refused`` or ``crashed``."""

    case: Case
    predicted: int | None
    refused: str = ""
    crashed: str = ""

    @property
    def error(self) -> float | None:
        """Signed relative error; 0 where the prediction prints as the source's figure does."""
        if self.predicted is None:
            return None
        return relative(self.predicted, self.case.measured, self.case.step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A group in figures. Errors are absolute and relative; shares are of the answered cases."""

    cases: int
    held_out: int
    refused: int
    median: float
    p90: float
    worst: float
    too_low: float


def relative(predicted: float, measured: float, step: float = 0.0) -> float:
    """Signed distance to the nearest value that prints as ``measured`` does, over ``measured``.

    >>> relative(99, 100), relative(104, 100, step=10)
    (-0.01, 0.0)
    """
    off = predicted - measured
    beyond = max(0.0, abs(off) - step / 2)
    return (beyond if off > 0 else -beyond) / measured if beyond else 0.0


def outcome(case: Case) -> Outcome:
    """Predict one case. A refusal is an outcome; so is a crash, which is an error of the tool."""
    try:
        return Outcome(case=case, predicted=COUNTERS[case.counter](_answer(case)))
    except tn.TonnageError as e:
        return Outcome(case=case, predicted=None, refused=str(e))
    except Exception as e:  # One crash shall not hide the other cases.
        return Outcome(case=case, predicted=None, crashed=f"{type(e).__name__}: {e}")


def _answer(case: Case) -> Any:
    """What is answered; cases of one workload stand together, and share it."""
    return _answered(json.dumps([case.model, case.workload], sort_keys=True))


@lru_cache(maxsize=2)
def _answered(asked: str) -> Any:
    name, said = json.loads(asked)
    task = said.pop("task")
    if task == "replay":
        return replay(os.path.join(RECORDINGS, f"{name}.json.gz"), **said)
    if task == "operator":
        return measured(str(name), **said)
    model = tn.load(name)
    return model if task == "params" else ASK[task](model, suggest=False, **said)


def summary(outcomes: Iterable[Outcome]) -> Summary:
    """Sum up a group; without an answered case every error is 0."""
    all_of_them = list(outcomes)
    errors = [o.error for o in all_of_them if o.error is not None]
    sizes = sorted(abs(e) for e in errors)
    return Summary(
        cases=len(all_of_them),
        held_out=sum(not o.case.seen for o in all_of_them),
        refused=len(all_of_them) - len(errors),
        median=statistics.median(sizes) if sizes else 0.0,
        p90=percentile(sizes, 0.9),
        worst=sizes[-1] if sizes else 0.0,
        too_low=sum(e < 0 for e in errors) / len(errors) if errors else 0.0,
    )


def percentile(ordered: list[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed (nearest rank).

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.9), percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    (4.0, 2.0)
    """
    if not ordered:
        return 0.0
    rank = -int(-share * len(ordered) // 1)
    return ordered[max(rank, 1) - 1]


def row(o: Outcome) -> dict[str, Any]:
    """One case as ``--json`` prints it."""
    c = asdict(o.case)
    return {
        "id": c["id"],
        "counter": c["counter"],
        "measured": c["measured"],
        "predicted": o.predicted,
        "error": o.error,
        "refused": o.refused or None,
        "crashed": o.crashed or None,
        "seen": c["seen"],
        "source": c["source"],
    }
