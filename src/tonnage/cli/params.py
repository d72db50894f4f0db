"""``tonnage params``."""

from __future__ import annotations

from typing import Any

import click

from tonnage.cli.options import MODEL, OUTPUT, model_of


@click.command(short_help="How many parameters, where.")
@MODEL
@OUTPUT
def command(**given: Any) -> int:
    """How many parameters MODEL has, where, how many a token uses, and what they take to store and to load.

    MODEL is a catalogue name, a config.json, a folder with one, or dimensions (--hidden 768 --layers 12 ...).
    """
    from tonnage.cli.show import dumped
    from tonnage.report.params import as_dict, render

    as_json = given.pop("as_json")
    model = model_of(given)
    if as_json:
        dumped(as_dict(model))
    else:
        print(render(model))
    return 0
