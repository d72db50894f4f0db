"""Options that several verbs share."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import click

from tonnage.cli.flags import headed, switch, text, together

DIMENSIONS: Final = {
    "hidden": "residual width",
    "layers": "layers",
    "heads": "query heads",
    "vocab": "rows of the vocabulary",
    "ffn": "feed-forward width (default: 4 x hidden)",
    "kv_heads": "key/value heads (default: heads)",
    "head_dim": "width of a head (default: hidden / heads)",
    "positions": "positions of the model",
}
SHAPES: Final = {
    "gated": "gated feed-forward, RMS norms, rotary positions and no biases, as Llama",
    "tied": "the head shares the embedding's weights",
    "bias": "biases (default: with plain feed-forward)",
}


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


READ: Final = together(
    text("--head", "Count this class: causal, masked, seq2seq, none, classify:N.", "HEAD"),
    text("--ignore-key", "A config key to pass over; may be repeated.", "KEY", multiple=True),
    switch("--ignore-unknown", "Pass over every config key that is not understood."),
)
"""How a config is read."""

MODEL: Final = together(
    click.argument("model", required=False),
    headed(
        "Model",
        text("--model", "The model, where no MODEL is given.", "MODEL", into="model_flag"),
        READ,
        text(
            "--prune",
            "Less of layers, heads, ffn, experts, hidden or vocab: heads=25%, layers=24; may be repeated.",
            "WHAT=HOW",
            multiple=True,
        ),
    ),
    headed(
        "Model from dimensions",
        *(text(f"--{name.replace('_', '-')}", _sentence(what), "N") for name, what in DIMENSIONS.items()),
        *(switch(f"--{name}/--no-{name}", _sentence(what)) for name, what in SHAPES.items()),
    ),
)

FROM: Final = text(
    "--from",
    "What starts an engine: 'vllm serve org/name -tp 2', or a compose or Kubernetes file; flags beside it win.",
    "COMMAND",
)

CONFIG: Final = text(
    "--from",
    "The config file of a stack (.yaml, .toml, .json), or what starts it, such as 'axolotl train x.yml'; flags win.",
    "CONFIG",
)

OUTPUT: Final = switch("--json", "Print one JSON object.", into="as_json")

STRICT: Final = switch("--strict", "Exit 1 where it is uncertain as well.")

CALIBRATION: Final = headed(
    "Devices", text("--calibration", "What tonnage measure --calibrate kept of the device.", "FILE")
)


def model_of(given: dict[str, Any]) -> Any:
    """Take the model's options out of ``given`` and load it."""
    from tonnage import api
    from tonnage.errors import InputError

    named, flag = given.pop("model", None), given.pop("model_flag", None)
    if named is not None and flag is not None:
        raise InputError(f"two models are named: {named} and --model {flag}", key="model", hint="give one of the two")
    name = named if named is not None else flag
    dimensions = {key: given.pop(key) for key in DIMENSIONS}
    shapes = {key: given.pop(key) for key in SHAPES}
    head, keys, unknown = given.pop("head"), given.pop("ignore_key"), given.pop("ignore_unknown")
    prune = tuple(w for wish in given.pop("prune", ()) for w in wish.split(",") if w.strip())
    said = {key: value for key, value in {**dimensions, **shapes}.items() if value is not None}
    if name is not None and said:
        first = next(iter(said)).replace("_", "-")
        raise InputError(f"--{first} describes a model, and {name} names one", key=first, hint="give one of the two")
    if name is None and not said:
        raise InputError(
            "no model is named",
            key="model",
            hint="give a name (tonnage models), a config.json, org/name, or dimensions such as --hidden 768",
        )
    source = name if name is not None else plain(said)
    with waiting() as progress:
        return api.load(
            source, ignore_keys=tuple(keys), ignore_unknown=unknown, head=head, prune=prune, progress=progress
        )


def started(given: dict[str, Any]) -> Any:
    """Take the command of ``--from`` out of ``given``, as it is read; None where there is none.

    Its model becomes the one that is asked of, where none is named beside it.
    """
    line = given.pop("from")
    if line is None:
        return None
    from tonnage import launch

    told = launch.read(line)
    if not any(given[key] for key in ("model", "model_flag", *DIMENSIONS)):
        given["model_flag"] = launch.named(told)
    return told


def model_beside(given: dict[str, Any], *, named: bool) -> Any:
    """The model; where a command or a config named it and it cannot be had, what else names it is told."""
    from tonnage.errors import SourceError

    own = given["model_flag"]
    try:
        return model_of(given)
    except SourceError as e:
        if named and own is not None:
            e.hint = (
                f"{e.hint}; or --model NAME beside --from, as tonnage models lists them" if e.hint else "add --model"
            )
        raise


def configured(given: dict[str, Any]) -> Any:
    """Take the config of ``--from`` out of ``given``, as it is read; None where there is none.

    Its model becomes the one that is asked of, where none is named beside it.
    """
    text = given.pop("from")
    if text is None:
        return None
    from tonnage.launch import training

    job = training.read(text, given["stack"])
    if not any(given[key] for key in ("model", "model_flag", *DIMENSIONS)):
        given["model_flag"] = training.named(job)
    return job


def model_name(given: dict[str, Any]) -> str:
    """Take the model's options out of ``given`` but for the head: a verb that runs the code wants the name alone.

    Raises:
        InputError: none, or two; a model from dimensions has no code.
    """
    from tonnage.errors import InputError

    named = [name for name in (given.pop("model", None), given.pop("model_flag", None)) if name is not None]
    said = [key for key in (*DIMENSIONS, *SHAPES) if given.pop(key, None) is not None]
    given.pop("ignore_key"), given.pop("ignore_unknown")
    if said or len(named) != 1:
        why = (
            f"--{said[0].replace('_', '-')} describes no code that could run"
            if said
            else (f"two models are named: {' and '.join(named)}" if named else "no model is named")
        )
        raise InputError(why, key="model", hint="a name (tonnage models), a config.json, or train.py:step")
    return str(named[0])


def waiting() -> AbstractContextManager[Any]:
    """What shows how far the reading of many files has come; nothing where no one looks."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        return nullcontext()
    from tonnage.cli.waiting import Waiting

    return Waiting()


def plain(said: Mapping[str, Any]) -> dict[str, Any]:
    """The inline config that dimensions on the command line make."""
    from tonnage.errors import InputError
    from tonnage.units import parse_count

    missing = [key for key in ("hidden", "layers", "heads", "vocab") if key not in said]
    if missing:
        flags = ", ".join(f"--{key}" for key in missing)
        raise InputError(f"a model from dimensions needs {flags} too", key=missing[0])
    sizes = {key: parse_count(value, key=key) if isinstance(value, str) else value for key, value in said.items()}
    return {"config": {"model_type": "plain", **sizes}, "name": "plain"}


def exit_code(verdict: str | None, strict: bool) -> int:
    """0 it fits or may fit, 1 it does not; uncertain counts as 1 where that is asked for."""
    return int(verdict == "does not fit" or (strict and verdict == "uncertain"))
