"""load, train, serve, params, explain: joins what is read to the core."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from tonnage.arch.model import Model
from tonnage.devices import Device, device
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.result import Result
from tonnage.record import stated
from tonnage.timeline import Component
from tonnage.workload import workload

if TYPE_CHECKING:
    from tonnage.allocator.answer import Answer as Replay
    from tonnage.checkpoint import Header
    from tonnage.history import History
    from tonnage.launch import Command
    from tonnage.launch.training import Job
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
    from tonnage.sources import described

    raw = described(source, progress)
    if prune:
        from tonnage.families._pruned import model_pruned

        return model_pruned(
            raw.config, prune, name=raw.name, file=raw.file, ignored=frozenset(ignore_keys), lenient=ignore_unknown,
            head=head,
        )  # fmt: skip
    model = model_from(
        raw.config,
        file=raw.file,
        ignored=frozenset(ignore_keys),
        lenient=ignore_unknown,
        head=head,
    )
    return model.but(name=raw.name or model.model_type)


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


def place(gpu: str | None, in_use: str | int | None) -> tuple[Device | None, int]:
    """The device that is named and what others hold of it. [byte]

    Raises:
        InputError: no such device, or ``in_use`` without one.
    """
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


def train(
    model: ModelLike | None = None,
    *,
    config: str | Job | None = None,
    suggest: bool = True,
    calibration: str | None = None,
    **said: Any,
) -> Answer:
    """Memory to train or fine-tune a model, at its peak.

    Args:
        model: as ``load`` takes it; None for the one that ``config`` names.
        config: the config file of a training stack, or the command that starts it; ``said`` wins over it.
        suggest: whether a change is looked for when it does not fit.
        calibration: file of what ``measure`` kept of the device; that which TONNAGE_CALIBRATION names where None.
        said: the keys of a training workload.

    >>> train("gpt2", seq=128, batch=1).fullest.tier("requested") > 0
    True
    """
    from tonnage.estimate.train import answer
    from tonnage.workload.training import Train

    doubt: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    compiled = said.get("compile")
    if config is not None:
        from tonnage import runs

        model, said, doubt, told = runs.configured(model, config, said, load)
    w = workload(Train, said)
    m = load(model if model is not None else "", head=HEADS.get(w.objective or ""))
    beside = _beside(w)
    where, held = place(w.gpu, w.in_use)
    where = _calibrated(where, calibration)
    try:
        result = answer(m, w, where, in_use=held, beside=beside, doubt=doubt)
    except UnsupportedError as error:
        if error.key != "compile" or config is None or compiled is not None:
            raise
        # A config's switch is told as any of its keys that are not modelled; a flag is refused.
        w, doubt = w.but(compile=None), (*doubt, f"compiled blocks keep other tensors: {error.message}")
        result = answer(m, w, where, in_use=held, beside=beside, doubt=doubt)
    if w.mean_length is not None:
        result = _padded(result, m, w, where, held, beside=beside, doubt=doubt)
    found = _answer(result, m, w, where, held, suggest=suggest, beside=beside)
    return found.but(caveats=(*found.caveats, *told)) if told else found


def _padded(result: Result, model: Model, w: Train, where: Device | None, held: int, **more: Any) -> Result:
    """The range of batches that are padded to their own longest sample.

    Raises:
        InputError: the mean is longer than the longest.
    """
    from tonnage.estimate.padding import padded
    from tonnage.estimate.train import answer

    mean, longest = w.mean_length or 0, int(result.workload["seq"])
    if mean > longest:
        raise InputError(
            f"mean_length = {mean:,} is longer than the longest sample, seq = {longest:,}", key="mean_length",
            value=mean, hint=f"at most --mean-length {longest}",
        )  # fmt: skip
    shorter = answer(model, w.but(seq=mean), where, in_use=held, **more)
    return padded(result, shorter, where, held, mean)


HEADS: Final = {"reward": "classify:1", "rerank": "classify:1", "embed": "none"}
"""Classes that objectives train, where none is named."""


def _beside(w: Train) -> dict[str, Model]:
    """Further models that a workload names."""
    found: dict[str, Model] = {}
    if w.teacher is not None:
        found["teacher"] = load(w.teacher)
    if w.reward_model is not None:
        found["reward_model"] = load(w.reward_model, head=HEADS["reward"])
    if w.critic is not None or w.objective == "ppo":
        # As a rule it begins as a copy of the judge.
        named = w.critic or w.reward_model
        found |= {} if named is None else {"critic": load(named, head=HEADS["reward"])}
    return found


def _calibrated(where: Device | None, path: str | None) -> Device | None:
    """The device with what was measured on it, where a file of that is named."""
    if path is None and "TONNAGE_CALIBRATION" not in os.environ:
        return where
    from tonnage.sources.calibration import applied

    return applied(where, path)


def serve(
    model: ModelLike | None = None,
    *,
    command: str | Command | None = None,
    to: str | None = None,
    table: str | None = None,
    suggest: bool = True,
    calibration: str | None = None,
    **said: Any,
) -> Answer:
    """Memory to run a model, and how much context and concurrency are left.

    Args:
        model: as ``load`` takes it; None for the one that ``command`` names.
        command: what starts the engine, such as ``"vllm serve org/name -tp 2"``; ``said`` wins over it.
        to: the stack whose command is written for the answer.
        table: keys to go through, such as "context,concurrency".
        suggest: whether a change is looked for when it does not fit.
        calibration: as in ``train``.
        said: the keys of a serving workload.

    >>> serve("llama-3.1-8b", context=8192).capacity["kv_bytes_per_token"]
    131072
    >>> serve(command="vllm serve meta-llama/Llama-3.1-8B --max-model-len 8192").workload["context"]
    8192
    """
    from tonnage.estimate.serve import answer
    from tonnage.workload.serving import Serve

    doubt: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    if command is not None or to is not None:
        from tonnage import runs

        model, said, doubt, told = runs.started(model, command, said, to, load)
    m, w = load(model if model is not None else ""), workload(Serve, said)
    if w.draft is not None or w.mmproj is not None:
        from tonnage import runs

        m = runs.together(m, w, load)
    where, held = place(w.gpu, w.in_use)
    where = _calibrated(where, calibration)
    result = answer(m, w, where, in_use=held, doubt=doubt)
    found = _answer(result, m, w, where, held, suggest=suggest and table is None)
    extras: dict[str, Any] = dict(found.extras)
    if to is not None:
        extras["command"] = runs.written(to, m, command, found.workload, said)
    if table is not None:
        from tonnage.plan.inverse import table as rows

        extras["table"] = rows(m, w, where, held, table)
    return found.but(caveats=(*found.caveats, *told), extras=extras)


def fitting(**said: Any) -> dict[str, Any]:
    """The models of the catalogue that a device holds under one workload, the largest first."""
    from tonnage import runs

    return runs.fitting(said, load, place)


def _answer(
    result: Result,
    model: Model,
    w: Train | Serve,
    where: Device | None,
    held: int,
    *,
    suggest: bool,
    beside: Mapping[str, Model] | None = None,
) -> Answer:
    """The result with a suggestion where it does not surely fit."""
    if suggest and where is not None and _may_fit(result):
        from tonnage.plan.suggest import suggested

        result = suggested(result, model, w, where, held, beside)
    return Answer(**stated(result))


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
    from tonnage.sources import described
    from tonnage.tracing import ask

    if target is None:
        return ask.context(**said)
    text = os.fspath(target) if isinstance(target, str | os.PathLike) else ""
    if text.endswith(".py"):
        raise InputError(f"{text} names no function", key="target", value=text, hint=f"tonnage trace {text}:step")
    if ask.is_function(text):
        result = ask.function(text, said, place(said.pop("gpu", None), said.pop("in_use", None)))
    else:
        raw = None if isinstance(target, Model) else described(target)
        if raw is None:
            raise InputError("a trace needs the config: name the model, or give its config", key="model")
        kind = ask.workload_of(task)
        asked = ask.taken(said)
        w = workload(kind, said)
        result = ask.model(raw.config, raw.name, w, place(w.gpu, w.in_use), _described(target, asked.head), asked)
    return Answer(**stated(result))


def _described(source: ModelLike, head: str | None) -> Model | None:
    """The model as tonnage reads it; None where it does not: the real code needs no family of ours."""
    from tonnage.errors import TonnageError

    try:
        return load(source, head=head, ignore_unknown=True)
    except TonnageError:
        return None


def profile(path: str, *, device: int | None = None) -> History:
    """What a run held over time, from a file of any kind that tells it; what is alive at its peak, and why.

    Args:
        path: of a memory snapshot of PyTorch, an Nsight Systems SQLite export, a Chrome trace or memory timeline of
            ``torch.profiler``, a memory analysis of XLA, a device memory profile of JAX, or a trace of ``tonnage``.
        device: its index, where the file holds several.

    Raises:
        InputError: no such file, or a damaged one.
        UnsupportedError: a pickle that names anything: nothing of it is run.
        SourceError: the file cannot be read.
    """
    from tonnage import profiles

    return profiles.read(path, device=device)


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
    from tonnage.estimate.room import room
    from tonnage.sources.recording import read
    from tonnage.units import parse_bytes

    if device_memory is not None and gpu is not None:
        raise InputError("device_memory and gpu both name a memory", key="device_memory", hint="give one of the two")
    where, held = place(gpu, in_use if in_use in (None, "here") else parse_bytes(str(in_use), key="in_use"))
    return answer.answer(
        read(path, device=device), os.path.basename(path), alloc_conf, room(where, held, device_memory)
    )


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
