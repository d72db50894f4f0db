"""``tonnage replay``."""

from __future__ import annotations

from typing import Any

import click

from tonnage.cli.flags import switch, text
from tonnage.cli.options import OUTPUT


@click.command(short_help="A recording of the caching allocator through the model of it; any profile, at its peak.")
@click.argument("recording")
@text("--alloc-conf", "Replay under these settings, as PYTORCH_CUDA_ALLOC_CONF has them.", "SETTINGS")
@text("--device-memory", "What would this much memory for the allocator have done, such as 22GiB.", "SIZE")
@text("--gpu", "The same for a device (tonnage devices), whose context is taken off.", "DEVICE")
@text("--in-use", "What others hold on it, such as 2341MiB.", "SIZE")
@text("--device", "Device of the recording, where it holds several.", "INDEX", type=int)
@text("--html", "Write a timeline that a browser shows: zoom, hover, what is alive at any instant.", "FILE")
@switch("--peak", "Tell what is alive at the peak, as of any other profile.")
@switch("--strict", "Exit 1 where an address or a segment differs, or it is uncertain.")
@OUTPUT
def command(recording: str, as_json: bool, strict: bool, peak: bool, html: str | None, **given: Any) -> int:
    """Replay what PyTorch's caching allocator did, and compare every address and every segment.

    RECORDING is a memory snapshot (torch.cuda.memory._dump_snapshot) or its columns as .json, also gzipped. Nothing of
    a snapshot is run. With --peak, what is alive at the peak is told by component, place in the program and operation.

    So it is of any other profile: an Nsight Systems SQLite export, a Chrome trace or memory timeline of torch.profiler,
    a memory analysis of XLA, a device memory profile of JAX, a trace of tonnage trace --out.
    """
    from tonnage import api, profiles
    from tonnage.cli.show import dumped
    from tonnage.errors import UnsupportedError
    from tonnage.report import alive
    from tonnage.report.replay import as_dict, render

    if not profiles.is_recording(recording):
        _profile(recording, as_json, html, given)
        return 0
    try:
        answer = api.replay(recording, **given)
    except UnsupportedError:
        # What the allocator's model cannot follow still tells its storages.
        if not peak and html is None:
            raise
        _profile(recording, as_json, html, given)
        return 0
    told, lines = {}, []
    if peak or html is not None:
        history = profiles.of_replay(answer, recording, given["device"])
        if html is not None:
            _written(history, html)
        if peak:
            told, lines = {"peak": alive.peak_dict(history)}, ["", *alive.attribution(history)]
    if as_json:
        dumped(as_dict(answer) | told)
    else:
        print("\n".join([render(answer), *lines]))
    return _code(answer, strict)


def _code(answer: Any, strict: bool) -> int:
    from tonnage.cli.options import exit_code

    r = answer.replayed
    differs = r is not None and bool(r.address_mismatches or r.segment_mismatches)
    if answer.on is None:
        return int(strict and differs)
    verdict = {"out of memory": "does not fit", "uncertain": "uncertain"}.get(answer.on.verdict, "fits")
    return max(exit_code(verdict, strict), int(strict and differs))


def _profile(path: str, as_json: bool, html: str | None, given: dict[str, Any]) -> None:
    """A file of another kind."""
    from tonnage import api
    from tonnage.cli.show import dumped
    from tonnage.errors import InputError
    from tonnage.report import alive

    for key in ("alloc_conf", "device_memory", "gpu", "in_use"):
        if given[key] is not None:
            raise InputError(
                "only a recording of the caching allocator can be played elsewhere",
                key=key, value=given[key], file=path,
                hint="record one with torch.cuda.memory._record_memory_history()",
            )  # fmt: skip
    history = api.profile(path, device=given["device"])
    if html is not None:
        _written(history, html)
    if as_json:
        dumped(alive.as_dict(history))
    else:
        print(alive.render(history))


def _written(history: Any, path: str) -> None:
    from tonnage.cli.show import written
    from tonnage.report.timeline_html import render

    written(render(history), path, "html")
