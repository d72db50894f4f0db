"""``tonnage measure``."""

from __future__ import annotations

from typing import Any, Final

import click

from tonnage.cli.options import OUTPUT, text, together

ASKED: Final = together(
    text("--task", "train or serve."),
    text("--head", "The class that runs: causal, masked, seq2seq, none.", "HEAD"),
    text("--device", "auto, cuda, cuda:1, mps, cpu (auto).", "DEVICE"),
    text("--max-seconds", "Longest time of the measured process (600).", "N"),
    click.option("--trace/--no-trace", "traced", default=True, help="Trace the workload as well, for comparison."),
    text("--calibrate", "Keep what the run shows of the device here, for later answers.", "FILE"),
    text("--record", "Record what the caching allocator does here, for tonnage replay (.json.gz).", "FILE"),
    text("--out", "Append the row here.", "FILE"),
    text("--id", "Name of the row."),
)
WORKLOAD: Final = together(
    text("--batch", "train: sequences in one forward pass (1).", "N"),
    text("--seq", "train: tokens of a sequence (2048, or the model's positions).", "N"),
    text("--accumulate", "train: forward passes a step (1).", "N"),
    text("--precision", "train: fp32 bf16-mixed bf16 ... (what the stack does)."),
    text("--optimizer", "train: adamw, adamw-fused, adamw-foreach, adamw-loop, sgd, sgd-momentum (adamw)."),
    text("--recompute", "train: none, full (none)."),
    text("--lora-rank", "train: rank; turns LoRA on.", "N"),
    text("--lora-targets", "train: module names, attention, all-linear."),
    text("--lora-dropout", "train: dropout of the adapters."),
    click.option(
        "--retain", multiple=True, help="train: what the loop still holds: outputs, step-outputs, last-outputs, grads."
    ),
    text("--context", "serve: tokens of one sequence (8192, or the model's positions).", "N"),
    text("--concurrency", "serve: sequences of that length held at once (1).", "N"),
    text("--prompt", "serve: tokens read in one pass, the rest being generated (context).", "N"),
    text("--logits", "serve: last or all positions of the prompt (last)."),
    text("--dtype", "Format of the checkpoint's weights."),
    text("--attention", "eager, sdpa, flash, flash_attention_2 (sdpa)."),
    text("--alloc-conf", "Settings of the allocator, as PYTORCH_ALLOC_CONF has them.", "SETTINGS"),
)


@click.command(short_help="The real code on the real device, beside the prediction.")
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
