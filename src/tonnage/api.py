"""load, train, serve, params, explain: joins what is read to the core."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from tonnage.arch.model import Model
from tonnage.devices import Device, device
from tonnage.errors import InputError, SourceError, UnsupportedError
from tonnage.estimate.result import Result
from tonnage.timeline import Component
from tonnage.workload import workload

if TYPE_CHECKING:
    from tonnage.checkpoint import Header
    from tonnage.reconcile import Difference
    from tonnage.sources import RawModel
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
    source: ModelLike, *, ignore_keys: tuple[str, ...] = (), ignore_unknown: bool = False, head: str | None = None
) -> Model:
    """A model from a catalogue name, a ``config.json``, a folder with one, or a config as a mapping.

    Args:
        source: where the model is described. ``{"config": {...}}`` is an inline config as well.
        ignore_keys: config keys to pass over.
        ignore_unknown: pass over every key that is not understood; answers are then uncertain.
        head: "causal", "masked", "seq2seq", "none" or "classify:N" instead of the config's own class.

    Raises:
        InputError: unknown name, or a config that is wrong.
        UnsupportedError: an architecture or file format that is not read yet.
        SourceError: the file is not there.

    >>> load("llama-3.1-8b").parameters.total
    8030261248
    """
    if isinstance(source, Model):
        return source
    # Imported late: reading a model loads its family and the catalogue.
    from tonnage.families import model_from

    raw = _raw(source)
    model = model_from(
        raw.config,
        file=raw.file,
        ignored=frozenset(ignore_keys),
        lenient=ignore_unknown,
        head=head,
    )
    return model.but(name=raw.name or model.model_type)


def _raw(source: str | os.PathLike[str] | Mapping[str, Any]) -> RawModel:
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

        return _raw(parsed(text, None))
    if not os.path.lexists(text):
        found = catalogue.find(text)
        if found is not None:
            return found
    from tonnage.sources import config
    from tonnage.sources.weights import is_file

    if is_file(text) and not os.path.isdir(text):
        return _beside(os.path.expanduser(text))
    if "://" in text:
        return config.fetch(text)
    if os.path.lexists(text) or text.lower().endswith(".json") or text.startswith((".", "/", "~")):
        return config.read(os.path.expanduser(text))
    if text.count("/") == 1:
        close = catalogue.unknown(text).nearest
        raise UnsupportedError(
            f"{text}: reading from the Hub is not there yet", key="model", value=text, nearest=close,
            hint="download its config.json and give the file",
        )  # fmt: skip
    raise catalogue.unknown(text)


def _beside(path: str) -> RawModel:
    """What builds the model of a weights file: its own metadata, or the ``config.json`` beside it."""
    if path.lower().partition("?")[0].endswith(".gguf"):
        from tonnage.sources.gguf_config import described
        from tonnage.sources.headers import read

        return described(read(path))
    from tonnage.sources import config

    if "://" in path:
        return config.fetch(f"{path.partition('?')[0].rpartition('/')[0]}/config.json")
    folder = os.path.dirname(path) or "."
    if os.path.isfile(path) and not os.path.isfile(os.path.join(folder, "config.json")):
        raise UnsupportedError(
            f"{path} names tensors and no architecture", key="model", value=path, file=path,
            hint="put the model's config.json beside it; tonnage params answers from the header alone",
        )  # fmt: skip
    if not os.path.isfile(path):
        raise SourceError(f"cannot read {path}: No such file or directory", key="model", value=path, file=path)
    return config.read(folder)


def weights(source: str) -> Header | None:
    """The header of the weights that ``source`` names: a file, an index, or a folder that holds weights and no config.

    Returns:
        None where it names something else.

    Raises:
        SourceError: a file is missing or cannot be read.
        InputError: a file breaks a rule of its format.
    """
    from tonnage.sources.weights import named

    return named(source)


def compare(
    left: str, right: str, *, head: str | None = None, ignore_keys: tuple[str, ...] = (), ignore_unknown: bool = False
) -> tuple[str, str, dict[str, tuple[int, int]], Difference]:
    """A model held against a file of weights, or two files.

    Args:
        left: as ``load`` takes it, or a file of weights.
        right: the same; one of the two is a file.
        head: the class that is counted.
        ignore_keys: config keys to pass over.
        ignore_unknown: pass over every config key that is not understood.

    Returns:
        Names of both sides, their bytes by component, and the tensors that they do not share.

    Raises:
        InputError: neither is a file of weights.
    """
    from tonnage import reconcile
    from tonnage.checkpoint.names import role
    from tonnage.formats import storage_format

    file = weights(right)
    if file is None and weights(left) is not None:
        # The file first: the same answer from the other side.
        b, a, lines, found = compare(right, left, head=head, ignore_keys=ignore_keys, ignore_unknown=ignore_unknown)
        return a, b, {name: (size[1], size[0]) for name, size in lines.items()}, found.turned()
    if file is None:
        raise InputError(
            "one of the two must be a file of weights", key="right", value=right,
            hint="tonnage compare CONFIG FILE: the file is .safetensors, its index, .gguf, .bin or .pt",
        )  # fmt: skip
    other = weights(left)
    sizes: dict[str, list[int]] = {}
    if other is not None:
        mine = reconcile.found(other)
        for t in other.tensors:
            sizes.setdefault(role(t.name), [0, 0])[0] += t.nbytes
    else:
        model = load(left, head=head, ignore_keys=ignore_keys, ignore_unknown=ignore_unknown)
        mine = reconcile.predicted(model)
        form = storage_format(model.dtype or "bf16")
        for w in model.weights():
            sizes.setdefault(w.role, [0, 0])[0] += (storage_format(w.dtype) if w.dtype else form).nbytes(w.numel)
    theirs = reconcile.found(file, mine)
    for t in file.tensors:
        sizes.setdefault(role(t.name), [0, 0])[1] += t.nbytes
    lines = {name: (a, b) for name, (a, b) in sizes.items()}
    return mine.name, theirs.name, lines, reconcile.compare(mine, theirs)


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
