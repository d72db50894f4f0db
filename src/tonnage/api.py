"""load, train, serve, params, explain: joins what is read to the core."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from tonnage.arch.model import Model
from tonnage.devices import Device, device
from tonnage.errors import InputError
from tonnage.estimate.result import Result
from tonnage.timeline import Component
from tonnage.workload import workload

if TYPE_CHECKING:
    from tonnage.allocator.answer import Answer as Replay
    from tonnage.checkpoint import Header
    from tonnage.reconcile import Difference
    from tonnage.sources import RawModel
    from tonnage.sources.places import Progress
    from tonnage.workload.serving import Serve
    from tonnage.workload.training import Train

ModelLike = Model | str | os.PathLike[str] | Mapping[str, Any]


class Answer(Result):
    """A result that shows itself: as a table in a terminal, as HTML with bars in a notebook."""

    __slots__ = ()

    def __repr__(self) -> str:
        from tonnage.report.text import render

        return render(self)

    def _repr_html_(self) -> str:
        from tonnage.report.html import render

        return render(self)


def load(
    source: ModelLike,
    *,
    ignore_keys: tuple[str, ...] = (),
    ignore_unknown: bool = False,
    head: str | None = None,
    prune: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> Model:
    """A model from a catalogue name, a ``config.json``, a folder with one, the Hub, or a config as a mapping.

    Args:
        source: where the model is described: a name, a path, an address, ``org/name[@revision]`` of the Hub, or a
            config. ``{"config": {...}}`` is an inline config as well.
        ignore_keys: config keys to pass over.
        ignore_unknown: pass over every key that is not understood; answers are then uncertain.
        head: "causal", "masked", "seq2seq", "none" or "classify:N" instead of the config's own class.
        prune: what there is less of, such as ``("layers=24", "heads=25%", "ffn=0.5")``.
        progress: called with files read and files in all, where headers come from a network.

    Raises:
        InputError: unknown name, or a config that is wrong.
        UnsupportedError: an architecture or file format that is not read yet.
        SourceError: the file is not there, or the Hub does not give it.

    >>> load("llama-3.1-8b").parameters.total
    8030261248
    """
    if isinstance(source, Model):
        return source
    # Imported late: reading a model loads its family and the catalogue.
    from tonnage.families import model_from

    raw = _raw(source, progress)
    if prune:
        return _pruned(raw, prune, frozenset(ignore_keys), ignore_unknown, head)
    model = model_from(
        raw.config,
        file=raw.file,
        ignored=frozenset(ignore_keys),
        lenient=ignore_unknown,
        head=head,
    )
    return model.but(name=raw.name or model.model_type)


def _pruned(raw: RawModel, prune: tuple[str, ...], ignored: frozenset[str], lenient: bool, head: str | None) -> Model:
    from tonnage.errors import UnsupportedError
    from tonnage.families import model_from
    from tonnage.families._pruned import pruned

    config, told = pruned(raw.config, prune)
    try:
        model = model_from(config, file=raw.file, ignored=ignored, lenient=lenient, head=head)
    except InputError as e:
        if not told:
            raise
        # Where a head's width is no key of the family, it follows from what was changed.
        raise UnsupportedError(
            f"a model with {', '.join(prune)} is no config of {raw.config.get('model_type')}: {e.message}",
            key="prune", value=", ".join(prune), file=raw.file,
        ) from None  # fmt: skip
    return model.but(name=f"{raw.name or model.model_type}, pruned to {', '.join(prune)}")


def _raw(source: str | os.PathLike[str] | Mapping[str, Any], progress: Progress | None) -> RawModel:
    from tonnage.sources import RawModel

    if isinstance(source, Mapping):
        inline = source.get("config", source)
        if not isinstance(inline, Mapping):
            raise InputError("an inline config is an object", key="model", value=type(inline).__name__)
        return RawModel(config=inline, name=str(source.get("name", "")), origin="inline")
    from tonnage.sources import catalogue

    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if not isinstance(source, str):
        raise InputError(f"a model is a name, a path or a config, not {source!r}", key="model", value=source)
    text = source.strip()
    if not text:
        raise InputError("no model is named", key="model", value=source, hint="tonnage models lists the catalogue")
    if text.startswith("{"):
        from tonnage.sources.config import parsed

        return _raw(parsed(text, None), progress)
    if not os.path.lexists(text):
        found = catalogue.find(text)
        if found is not None:
            return found
    from tonnage.sources.model import described

    raw = described(text, progress)
    if raw is None:
        raise catalogue.unknown(text)
    return raw


def weights(source: str, *, beside_config: bool = False, progress: Progress | None = None) -> Header | None:
    """The header of the weights that ``source`` names: a file, an index, or a folder or repository that holds some.

    Args:
        source: a path, an address, or what names something of the Hub.
        beside_config: whether a folder or repository counts that holds a ``config.json`` as well.
        progress: called with files read and files in all, where headers come from a network.

    Returns:
        None where it names something else.

    Raises:
        SourceError: a file is missing or cannot be read.
        InputError: a file breaks a rule of its format.
    """
    from tonnage.sources.weights import named

    return named(source, beside_config=beside_config, progress=progress)


def compare(
    left: str,
    right: str,
    *,
    head: str | None = None,
    ignore_keys: tuple[str, ...] = (),
    ignore_unknown: bool = False,
    progress: Progress | None = None,
) -> tuple[str, str, dict[str, tuple[int, int]], Difference]:
    """A model held against a file of weights, or two files.

    A folder or repository that holds a config and weights is the config on the left and the weights on the right.

    Args:
        left: as ``load`` takes it, or a file of weights.
        right: the same; one of the two is a file.
        head: the class that is counted.
        ignore_keys: config keys to pass over.
        ignore_unknown: pass over every config key that is not understood.
        progress: called with files read and files in all, where headers come from a network.

    Returns:
        Names of both sides, their bytes by component, and the tensors that they do not share.

    Raises:
        InputError: neither is a file of weights.
    """
    from tonnage import reconcile
    from tonnage.checkpoint.names import role
    from tonnage.formats import storage_format

    file = weights(right, beside_config=True, progress=progress)
    if file is None and weights(left, beside_config=True, progress=progress) is not None:
        # The file first: the same answer from the other side.
        b, a, lines, found = compare(
            right, left, head=head, ignore_keys=ignore_keys, ignore_unknown=ignore_unknown, progress=progress
        )
        return a, b, {name: (size[1], size[0]) for name, size in lines.items()}, found.turned()
    if file is None:
        raise InputError(
            "one of the two must be a file of weights", key="right", value=right,
            hint="tonnage compare CONFIG FILE: the file is .safetensors, its index, .gguf, .bin or .pt",
        )  # fmt: skip
    other = weights(left, progress=progress)
    sizes: dict[str, list[int]] = {}
    if other is not None:
        mine = reconcile.found(other)
        for t in other.tensors:
            sizes.setdefault(role(t.name), [0, 0])[0] += t.nbytes
    else:
        model = load(left, head=head, ignore_keys=ignore_keys, ignore_unknown=ignore_unknown, progress=progress)
        mine = reconcile.predicted(model)
        form = storage_format(model.dtype or "bf16")
        for w in model.weights():
            sizes.setdefault(w.role, [0, 0])[0] += (storage_format(w.dtype) if w.dtype else form).nbytes(w.numel)
    theirs = reconcile.found(file, mine)
    for t in file.tensors:
        sizes.setdefault(role(t.name), [0, 0])[1] += t.nbytes
    lines = {name: (a, b) for name, (a, b) in sizes.items()}
    return mine.name, theirs.name, lines, reconcile.compare(mine, theirs)


def beside(left: str, right: str) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """Two results of the JSON contract, where at least one of two texts names a trace or a result in a file.

    The other may name a model: it is asked for the same workload.

    Raises:
        InputError: a trace of a function beside a model.
    """
    from tonnage.tracing.files import found

    a, b = found(left, device), found(right, device)
    if a is None and b is None:
        return None
    return a or _as_asked(left, b or {}), b or _as_asked(right, a or {})


def _as_asked(source: str, other: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is predicted for a model under the workload of another result."""
    asked = {key: value for key, value in other["workload"].items() if value not in (None, "none", [], False)}
    task = asked.pop("task", None)
    if task not in ("train", "serve"):
        raise InputError("a traced function has no prediction: compare it with another trace", key="left", value=source)
    for key in ("model", "in_use", "stack_version", "engine_version"):
        asked.pop(key, None)
    return (train if task == "train" else serve)(source, suggest=False, **asked).as_dict()


def _device(gpu: str | None, in_use: str | int | None) -> tuple[Device | None, int]:
    """The device that is named and what others hold of it. [byte]"""
    if gpu is None:
        if in_use is not None:
            raise InputError(
                "in_use says what others hold of a device, and none is named", key="in_use", hint="add gpu"
            )
        return None, 0
    held = in_use if isinstance(in_use, int) else 0
    if gpu != "here" and in_use != "here":
        return device(gpu), held
    from tonnage.sources.here import here

    found = here()
    where = found.device if gpu == "here" else device(gpu)
    return where, found.in_use or 0 if in_use in (None, "here") else held


def train(model: ModelLike, *, suggest: bool = True, **said: Any) -> Answer:
    """Memory to train or fine-tune a model, at its peak.

    Args:
        model: as ``load`` takes it.
        suggest: whether a change is looked for when it does not fit.
        said: the keys of a training workload.

    >>> train("gpt2", seq=128, batch=1).fullest.tier("requested") > 0
    True
    """
    from tonnage.estimate.train import answer
    from tonnage.workload.training import Train

    m, w = load(model), workload(Train, said)
    where, held = _device(w.gpu, w.in_use)
    result = answer(m, w, where, in_use=held)
    return _answer(result, m, w, where, held, suggest=suggest)


def serve(model: ModelLike, *, suggest: bool = True, **said: Any) -> Answer:
    """Memory to run a model, and how much context and concurrency are left.

    Args:
        model: as ``load`` takes it.
        suggest: whether a change is looked for when it does not fit.
        said: the keys of a serving workload.

    >>> serve("llama-3.1-8b", context=8192).capacity["kv_bytes_per_token"]
    131072
    """
    from tonnage.estimate.serve import answer
    from tonnage.workload.serving import Serve

    m, w = load(model), workload(Serve, said)
    where, held = _device(w.gpu, w.in_use)
    result = answer(m, w, where, in_use=held)
    return _answer(result, m, w, where, held, suggest=suggest)


def _answer(
    result: Result, model: Model, w: Train | Serve, where: Device | None, held: int, *, suggest: bool
) -> Answer:
    """The result with a suggestion where it does not surely fit."""
    if suggest and where is not None and _may_fit(result):
        from tonnage.plan.suggest import suggested

        result = suggested(result, model, w, where, held)
    return Answer(**{f.name: getattr(result, f.name) for f in fields(result)})


def _may_fit(result: Result) -> bool:
    """Whether a change could make it fit surely: what is not modelled whole never does."""
    return result.fit is not None and result.fit.verdict != "fits" and not result.extras.get("incomplete")


def trace(target: Any = None, *, task: str | None = None, **said: Any) -> Any:
    """The real code on tensors without data: every allocation, through the model of the caching allocator.

    Args:
        target: a model as ``load`` takes it; ``file.py:function`` or ``module:function``; None for a context manager,
            ``with trace() as t:``, around any PyTorch code.
        task: "train" or "serve", for a model.
        said: the keys of the workload; ``head``; ``layers`` ("few" or "all"), ``backend`` ("cuda" or "meta"),
            ``alloc_conf``, ``max_seconds``, ``max_memory``; for a function ``calls`` and ``item``.

    Returns:
        An ``Answer``, whose ``extras["traced"]`` is the event stream; or the context manager.

    Raises:
        UnsupportedError: torch is not installed, or it cannot be traced.
        InputError: contradictory, or the traced code needs data.
    """
    from tonnage.tracing import ask

    if target is None:
        return ask.context(**said)
    text = os.fspath(target) if isinstance(target, str | os.PathLike) else ""
    if ask.is_function(text):
        result = ask.function(text, said, _device(said.pop("gpu", None), said.pop("in_use", None)))
    else:
        raw = None if isinstance(target, Model) else _raw(target, None)
        if raw is None:
            raise InputError("a trace needs the config: name the model, or give its config", key="model")
        kind = ask.workload_of(task)
        asked = ask.taken(said)
        w = workload(kind, said)
        result = ask.model(raw.config, raw.name, w, _device(w.gpu, w.in_use), _described(target, asked.head), asked)
    return Answer(**{f.name: getattr(result, f.name) for f in fields(result)})


def _described(source: ModelLike, head: str | None) -> Model | None:
    """The model as tonnage reads it; None where it does not: the real code needs no family of ours."""
    from tonnage.errors import TonnageError

    try:
        return load(source, head=head, ignore_unknown=True)
    except TonnageError:
        return None


def replay(
    path: str,
    *,
    alloc_conf: str | None = None,
    device_memory: str | None = None,
    gpu: str | None = None,
    in_use: str | None = None,
    device: int | None = None,
) -> Replay:
    """A recording of PyTorch's caching allocator through the model of it.

    Args:
        path: of a memory snapshot, or of its columns as JSON.
        alloc_conf: settings to replay under; where None the recorded ones, and every address is compared.
        device_memory: memory for the allocator alone, to tell what it would have done.
        gpu: the same for a device, less the context of the process.
        in_use: what others hold on it.
        device: index in the recording, where it holds several.

    Raises:
        InputError: no recording, one that contradicts itself, or settings that torch refuses.
        UnsupportedError: private pools, another allocator, or expandable segments in use when it began.
        SourceError: the file cannot be read.
    """
    from tonnage.allocator import answer
    from tonnage.memory.overhead import CONTEXT
    from tonnage.sources.recording import read
    from tonnage.units import parse_bytes

    if device_memory is not None and gpu is not None:
        raise InputError("device_memory and gpu both name a memory", key="device_memory", hint="give one of the two")
    where, held = _device(gpu, in_use if in_use in (None, "here") else parse_bytes(str(in_use), key="in_use"))
    room = None
    if where is not None:
        have, taken = where.capacity, [c + held for c in CONTEXT]
        room = answer.Room(where.name, have.bytes - taken[1], have.low - taken[2], have.high - taken[0], have.bytes)
    elif device_memory is not None:
        size = parse_bytes(device_memory, key="device_memory")
        room = answer.Room(device_memory, size, size, size, size)
    return answer.answer(read(path, device=device), os.path.basename(path), alloc_conf, room)


def line(result: Result, name: str) -> tuple[Component, ...]:
    """The lines of a result that carry a component's name.

    Raises:
        InputError: no line has it.
    """
    found = tuple(c for c in result.components if c.name in (name, f"other:{name}"))
    if not found:
        from tonnage.errors import nearest

        there = tuple(dict.fromkeys(c.name for c in result.components))
        raise InputError(
            f"no line {name!r} at the peak", key="line", value=name, nearest=nearest(name, there),
            hint=f"lines: {', '.join(there)}",
        )  # fmt: skip
    return found
