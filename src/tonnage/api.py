"""load, train, serve, params, explain: joins what is read to the core."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from tonnage.arch.model import Model
from tonnage.devices import Device, device
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.result import Component, Result
from tonnage.units import parse_bytes
from tonnage.workload import workload

LATER: Final = (".safetensors", ".gguf", ".index.json", ".bin", ".pt", ".pth")

if TYPE_CHECKING:
    from tonnage.workload.serving import Serve
    from tonnage.workload.training import Train

ModelLike = Model | str | Mapping[str, Any]


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


def _raw(source: str | Mapping[str, Any]) -> Any:
    from tonnage.sources import RawModel

    if isinstance(source, Mapping):
        config = source.get("config", source)
        if not isinstance(config, Mapping):
            raise InputError("an inline config is an object", key="model", value=type(config).__name__)
        return RawModel(config=config, name=str(source.get("name", "")), origin="inline")
    from tonnage.sources import catalogue

    text = source.strip()
    if not text:
        raise InputError("no model is named", key="model", value=source, hint="tonnage models lists the catalogue")
    if text.startswith("{"):
        from tonnage.sources.config import parsed

        return _raw(parsed(text, None))
    if not os.path.exists(text):
        found = catalogue.find(text)
        if found is not None:
            return found
    lower = text.lower()
    if lower.endswith(LATER) or lower.startswith(("http://", "https://")):
        raise UnsupportedError(
            f"{text}: reading file headers and addresses is not there yet", key="model", value=text,
            hint="give the model's config.json",
        )  # fmt: skip
    if os.path.exists(text) or lower.endswith(".json") or text.startswith((".", "/", "~")):
        from tonnage.sources import config

        return config.read(os.path.expanduser(text))
    if text.count("/") == 1:
        close = catalogue.unknown(text).nearest
        raise UnsupportedError(
            f"{text}: reading from the Hub is not there yet", key="model", value=text, nearest=close,
            hint="download its config.json and give the file",
        )  # fmt: skip
    raise catalogue.unknown(text)


def _device(gpu: str | None, in_use: str | int | None) -> tuple[Device | None, int]:
    """The device that is named and what others hold of it. [byte]"""
    if gpu is None:
        return None, 0
    held = in_use if isinstance(in_use, int) else 0
    if isinstance(in_use, str) and in_use != "here":
        held = parse_bytes(in_use, key="in_use")
    if gpu == "here":
        from tonnage.sources.here import here

        found = here()
        return found.device, found.in_use or 0 if in_use in (None, "here") else held
    return device(gpu), held


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
    if suggest and where is not None and result.fit is not None and result.fit.verdict != "fits":
        from tonnage.plan.suggest import suggested

        result = suggested(result, model, w, where, held)
    return Answer(**{f.name: getattr(result, f.name) for f in fields(result)})


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
