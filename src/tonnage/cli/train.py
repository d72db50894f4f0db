"""``tonnage train``."""

from __future__ import annotations

from typing import Any

import click

from tonnage.cli.flags import Verb, flags
from tonnage.cli.options import CALIBRATION, CONFIG, MODEL, OUTPUT, STRICT, configured, exit_code, model_beside
from tonnage.workload.training import Train


@click.command(cls=Verb, short_help="Memory to train or fine-tune a model.")
@MODEL
@flags(Train)
@CALIBRATION
@CONFIG
@STRICT
@OUTPUT
def command(**given: Any) -> int:
    """Memory to train or fine-tune MODEL, at its peak.

    MODEL is a catalogue name, a config.json, a folder with one, org/name[@revision] or org/name:Q4_K_M of the Hub, or
    dimensions (--hidden 768 --layers 12 ...).
    """
    from tonnage import api
    from tonnage.cli.show import shown

    as_json, strict = given.pop("as_json"), given.pop("strict")
    job = configured(given)
    given["head"] = given["head"] or api.HEADS.get(given["objective"])
    result = api.train(model_beside(given, named=job is not None), config=job, **given)
    shown(result, as_json=as_json)
    return exit_code(result.fit.verdict if result.fit else None, strict)
