"""``tonnage serve``."""

from __future__ import annotations

from typing import Any, Final

import click

from tonnage.cli.flags import Verb, flags, text, together
from tonnage.cli.options import CALIBRATION, FROM, MODEL, OUTPUT, STRICT, exit_code, model_beside, started
from tonnage.record import fields
from tonnage.workload.serving import Serve

ANSWERS: Final = together(
    FROM,
    text("--to", "Write the command that does what is answered: vllm, sglang, llamacpp, ...", "STACK"),
    text("--table", "Go through context, concurrency, quant, kv-dtype, gpus, gpu or model (one key or two).", "KEYS"),
)


@click.command(cls=Verb, short_help="Memory to run a model.")
@MODEL
@flags(Serve)
@CALIBRATION
@ANSWERS
@STRICT
@OUTPUT
def command(**given: Any) -> int:
    """Memory to run MODEL; does it fit; how much context and concurrency are left.

    MODEL is a catalogue name, a config.json, a folder with one, org/name[@revision] or org/name:Q4_K_M of the Hub, or
    dimensions (--hidden 768 --layers 12 ...).
    """
    from tonnage import api
    from tonnage.cli.show import shown

    as_json, strict = given.pop("as_json"), given.pop("strict")
    if given["table"] == "model" and not given["from"]:
        return _models(given, as_json=as_json)
    command_line = started(given)
    model = model_beside(given, named=command_line is not None)
    result = api.serve(model, command=command_line, **given)
    shown(result, as_json=as_json)
    return exit_code(result.fit.verdict if result.fit else None, strict)


def _models(given: dict[str, Any], *, as_json: bool) -> int:
    """The models of the catalogue that fit."""
    from tonnage import api
    from tonnage.cli.show import dumped
    from tonnage.report.inverse import render

    keys = set(fields(Serve)) - {"task"}
    found = api.fitting(**{key: value for key, value in given.items() if key in keys})
    if as_json:
        dumped({"schema": 1, "table": found})
    else:
        print(render(found))
    return 0
