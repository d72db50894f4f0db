"""``tonnage params``."""

from __future__ import annotations

from typing import Any

import click

from tonnage.cli.options import DIMENSIONS, MODEL, OUTPUT, SHAPES, model_of


@click.command(short_help="How many parameters, where.")
@MODEL
@OUTPUT
def command(**given: Any) -> int:
    """How many parameters MODEL has, where, how many a token uses, and what they take to store and to load.

    MODEL is a catalogue name, a config.json, a folder with one, or dimensions (--hidden 768 --layers 12 ...). A file of
    weights (.safetensors or its index, .gguf, .bin, .pt) answers from its header, whatever the architecture.
    """
    from tonnage.cli.show import dumped
    from tonnage.sources import weights

    as_json = given.pop("as_json")
    named = given["model"] if given["model"] is not None else given["model_flag"]
    described = any(given[key] is not None for key in (*DIMENSIONS, *SHAPES))
    header = weights.named(named) if named is not None and not described else None
    if header is not None:
        from tonnage.report import headers

        if as_json:
            dumped(headers.as_dict(header))
        else:
            print(headers.render(header))
        return 0
    from tonnage.report.params import as_dict, render

    model = model_of(given)
    if as_json:
        dumped(as_dict(model))
    else:
        print(render(model))
    return 0
