"""``tonnage measure``."""

from __future__ import annotations

from typing import Any, Final

import click

from tonnage.cli.flags import Verb, flags, headed, switch, text, together
from tonnage.cli.options import OUTPUT
from tonnage.workload.serving import Serve
from tonnage.workload.training import Train

ASKED: Final = headed(
    "Run",
    text("--task", "train or serve."),
    text("--head", "The class that runs: causal, masked, seq2seq, none.", "HEAD"),
    text("--device", "auto, cuda, cuda:1, mps, cpu (auto).", "DEVICE"),
    text("--max-seconds", "Longest time of the measured process (600).", "N"),
    switch("--trace/--no-trace", "Trace the workload as well, for comparison (yes).", into="traced"),
    text("--calibrate", "Keep what the run shows of the device here, for later answers.", "FILE"),
    text("--record", "Record what the caching allocator does here, for tonnage replay (.json.gz).", "FILE"),
    text("--out", "Append the row here.", "FILE"),
    text("--id", "Name of the row."),
)
WORKLOAD: Final = together(
    flags(
        Train, "batch", "seq", "accumulate", "precision", "optimizer", "attention", "recompute", "retain", "lora_rank",
        "lora_targets", "lora_dropout", "dtype", "alloc_conf",
    ),
    flags(Serve, "context", "concurrency", "prompt", "logits"),
)  # fmt: skip


@click.command(cls=Verb, short_help="The real code on the real device, beside the prediction.")
@click.argument("model")
@ASKED
@WORKLOAD
@OUTPUT
def command(model: str, as_json: bool, **given: Any) -> int:
    """Run MODEL with random weights and data on the device that is there, and tell the peaks and how far off they were.

    MODEL is a catalogue name, a config.json or a folder with one. Nothing is downloaded but a config of the Hub. Needs
    torch and transformers: pip install 'tonnage[trace]'. Exits 1 where memory ran out.
    """
    from tonnage import measures
    from tonnage.cli.show import dumped

    out, calibrate = given.pop("out"), given.pop("calibrate")
    row = measures.measure(model, **{key: value for key, value in given.items() if value not in (None, ())})
    if out is not None:
        _appended(out, row)
    if calibrate is not None:
        measures.calibrate(row, calibrate)
    if as_json:
        dumped(row)
    else:
        from tonnage.report.measured import render

        print(render(row))
    return int(row.get("out_of_memory") is not None)


def _appended(path: str, row: Any) -> None:
    import json

    from tonnage.errors import SourceError

    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as e:
        raise SourceError(f"cannot write {path}: {e.strerror or e}", key="out", value=path, file=path) from None
