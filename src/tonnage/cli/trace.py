"""``tonnage trace``."""

from __future__ import annotations

from typing import Any, Final

import click

from tonnage.cli.flags import Verb, flags, headed, text
from tonnage.cli.options import MODEL, OUTPUT, STRICT, exit_code, model_name
from tonnage.workload.serving import Serve
from tonnage.workload.training import Train

TRACED: Final = headed(
    "Trace",
    text("--task", "train or serve, for a MODEL."),
    text("--layers-traced", "few (identical ones are told from a few of them), all.", "WHICH"),
    text("--backend", "cuda (a stand-in for it) or meta (what the precision needs)."),
    text("--calls", "A function: how often it is called; figures are of the last (2).", "N"),
    text("--item", "A function: what reading a number out of a tensor gives.", "NUMBER"),
    text("--max-seconds", "Longest time of the traced process (600).", "N"),
    text("--max-memory", "Most memory of the traced process (8GiB).", "SIZE"),
    text("--out", "Write the trace here, for tonnage compare.", "FILE"),
)


@click.command(cls=Verb, short_help="The real code on tensors without data: every allocation.")
@MODEL
@TRACED
@flags(Train)
@flags(Serve, "context", "concurrency", "prompt", "logits")
@STRICT
@OUTPUT
def command(**given: Any) -> int:
    """Trace MODEL as transformers runs it, or a function of yours, without a GPU and without weights.

    MODEL is a catalogue name, a config.json, a folder with one (--task train or serve), or train.py:step. Needs torch,
    which may be the build for CPUs: pip install 'tonnage[trace]'.
    """
    from tonnage import api
    from tonnage.cli.show import shown

    as_json, strict, out = given.pop("as_json"), given.pop("strict"), given.pop("out")
    given["layers"], dimensions = given.pop("layers_traced"), model_name(given)
    said = {key: value for key, value in given.items() if value not in (None, ())}
    result = api.trace(dimensions, **said)
    if out is not None:
        from tonnage.tracing.stream import write

        write(result.extras["traced"], out)
    shown(result, as_json=as_json)
    return exit_code(result.fit.verdict if result.fit else None, strict)
