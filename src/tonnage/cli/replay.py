"""``tonnage replay``."""

from __future__ import annotations

from typing import Any

import click

from tonnage.cli.options import OUTPUT, text


@click.command(short_help="A recording of the caching allocator through the model of it.")
@click.argument("recording")
@text("--alloc-conf", "Replay under these settings, as PYTORCH_CUDA_ALLOC_CONF has them.", "SETTINGS")
@text("--device-memory", "What would this much memory for the allocator have done, such as 22GiB.", "SIZE")
@text("--gpu", "The same for a device (tonnage devices), whose context is taken off.", "DEVICE")
@text("--in-use", "What others hold on it, such as 2341MiB.", "SIZE")
@click.option("--device", type=int, metavar="INDEX", help="Device of the recording, where it holds several.")
@click.option("--strict", is_flag=True, help="Exit 1 where an address or a segment differs, or it is uncertain.")
@OUTPUT
def command(recording: str, as_json: bool, strict: bool, **given: Any) -> int:
    """Replay what PyTorch's caching allocator did, and compare every address and every segment.

    RECORDING is a memory snapshot (torch.cuda.memory._dump_snapshot) or its columns as .json, also gzipped. Nothing of
    a snapshot is run.
    """
    from tonnage import api
    from tonnage.cli.options import exit_code
    from tonnage.cli.show import dumped
    from tonnage.report.replay import as_dict, render

    answer = api.replay(recording, **given)
    if as_json:
        dumped(as_dict(answer))
    else:
        print(render(answer))
    r = answer.replayed
    differs = r is not None and bool(r.address_mismatches or r.segment_mismatches)
    if answer.on is None:
        return int(strict and differs)
    verdict = {"out of memory": "does not fit", "uncertain": "uncertain"}.get(answer.on.verdict, "fits")
    return max(exit_code(verdict, strict), int(strict and differs))
