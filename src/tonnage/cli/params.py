"""``tonnage params``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from tonnage.cli.flags import Verb, headed, switch
from tonnage.cli.options import DIMENSIONS, MODEL, OUTPUT, SHAPES, model_of, waiting

if TYPE_CHECKING:
    from tonnage.checkpoint import Header


MORE: Final = headed(
    "What it takes",
    switch("--storage", "Files by format and scheme; training checkpoints."),
    switch("--loading", "Host and device memory of the ways to load it, or to quantize it so."),
    switch("--jobs", "Peaks of merging, converting, quantizing and calibrating."),
    switch("--all", "All three.", into="everything"),
)


@click.command(cls=Verb, short_help="How many parameters, where.")
@MODEL
@MORE
@OUTPUT
def command(**given: Any) -> int:
    """How many parameters MODEL has, where, how many a token uses, and what they take to store and to load.

    MODEL is a catalogue name, a config.json, a folder, org/name[@revision] of the Hub, or dimensions (--hidden 768
    --layers 12 ...). A file of weights (.safetensors or its index, .gguf, .bin, .pt; org/name:Q4_K_M) answers from its
    header, whatever the architecture; so does a folder or a repository whose config is not understood.
    """
    from tonnage.errors import UnsupportedError

    as_json, more = given.pop("as_json"), _asked(given)
    name = given["model"] if given["model"] is not None else given["model_flag"]
    if name is None or any(given[key] is not None for key in (*DIMENSIONS, *SHAPES)):
        return _counted(model_of(given), as_json, more)
    # A pruned model is described by its config alone.
    if given["prune"]:
        return _counted(model_of(given), as_json, more)
    with waiting() as progress:
        header = _weights(name, progress)
    if header is not None:
        return _held(header, as_json, more)
    # What says how to count asks for a count.
    told = given["head"] or given["ignore_key"] or given["ignore_unknown"]
    try:
        model = model_of(given)
    except UnsupportedError as e:
        with waiting() as progress:
            header = None if told else _weights(name, progress, beside_config=True)
        if header is None:
            raise
        note = f"its config is not understood: {e.message}; this is what its files hold"
        return _held(header.but(notes=(note, *header.notes)), as_json, more)
    return _counted(model, as_json, more, *_beside(name))


def _weights(name: str, progress: Any, *, beside_config: bool = False) -> Header | None:
    from tonnage.sources import weights

    return weights.named(name, beside_config=beside_config, progress=progress)


def _beside(name: str) -> tuple[Header | None, tuple[str, ...]]:
    """The weights that a folder or a repository holds beside its config, and why they could not be read."""
    from tonnage.errors import TonnageError

    try:
        with waiting() as progress:
            return _weights(name, progress, beside_config=True), ()
    except TonnageError as e:
        # The config is an answer of its own.
        return None, (f"the weights beside the config were not read: {e}",)


def _asked(given: dict[str, Any]) -> tuple[str, ...]:
    """Take what is asked for beside the counts out of ``given``."""
    everything = given.pop("everything")
    return tuple(kind for kind in ("storage", "loading", "jobs") if given.pop(kind) or everything)


def _counted(
    model: Any, as_json: bool, more: tuple[str, ...], header: Header | None = None, notes: tuple[str, ...] = ()
) -> int:
    from tonnage.cli.show import dumped
    from tonnage.report.params import as_dict, render

    if more:
        from tonnage.report import ways

        if as_json:
            dumped(as_dict(model, header, notes) | ways.as_dict(model, more))
        else:
            print(render(model, header, notes, whole="storage" in more), ways.render(model, more), sep="\n\n")
    elif as_json:
        dumped(as_dict(model, header, notes))
    else:
        print(render(model, header, notes))
    return 0


def _held(header: Header, as_json: bool, more: tuple[str, ...]) -> int:
    from tonnage.cli.show import dumped
    from tonnage.report.headers import as_dict, render

    if more:
        from tonnage.errors import UnsupportedError

        raise UnsupportedError(
            f"{header.name} is answered from its header: --{more[0]} needs the model's config", key=more[0],
            hint="give a catalogue name, a config.json or a folder",
        )  # fmt: skip
    if as_json:
        dumped(as_dict(header))
    else:
        print(render(header))
    return 0
