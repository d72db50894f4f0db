"""Any file that tells of a run's memory, as one history: which kind it is, its first bytes tell.

PyTorch memory snapshots, Nsight Systems' SQLite exports, Chrome traces and memory timelines of ``torch.profiler``,
memory analyses of XLA and device memory profiles of JAX; all but the database also gzipped.
"""

from __future__ import annotations

import os
from typing import Any, Final

from tonnage.errors import InputError
from tonnage.history import History
from tonnage.sources._unpack import content, parsed, start, wrong

HEAD: Final = 65536
"""Bytes at the start of a file in which it says what it is."""
SQLITE: Final = b"SQLite format 3\x00"
PICKLE: Final = b"\x80"
MARKS: Final = {
    b'"traceEvents"': "chrome", b'"device_traces"': "snapshot", b'"segments"': "snapshot", b"_size_in_bytes": "xla",
}  # fmt: skip
"""What a text of a kind names near its start."""
HINT: Final = (
    "a memory snapshot of PyTorch, an Nsight Systems SQLite export, a Chrome trace or memory timeline of"
    " torch.profiler, a memory analysis of XLA or a device memory profile of JAX is read"
)


def kind(path: str) -> str | None:
    """Which kind a file is meant to be, by its first bytes: weights, configs and results are none.

    Raises:
        SourceError: it cannot be read.
    """
    return of_head(start(path, HEAD)) if os.path.isfile(path) else None


def of_head(head: bytes) -> str | None:
    """Which kind begins so.

    >>> of_head(b'{"schemaVersion": 1, "traceEvents": ['), of_head(b"SQLite format 3\\0"), of_head(b'{"weight_map": {')
    ('chrome', 'nsight', None)
    """
    if head.startswith(SQLITE):
        return "nsight"
    if head.startswith(PICKLE):
        return "snapshot" if b"segments" in head or b"device_traces" in head else None
    # The first field of pprof is a sample type: two references into the table of texts. Nothing else begins so.
    if head[:1] == b"\n" and len(head) > 2 and head[1] <= 12 and head[2] == 8:
        return "pprof"
    text = head.lstrip()
    if text.startswith(b"CompiledMemoryStats"):
        return "xla"
    if text.startswith(b"{"):
        return next((name for mark, name in MARKS.items() if mark in head), None)
    if text.startswith(b"[["):
        return "timeline"
    return "chrome" if text.startswith(b"[") and b'"ph"' in head else None


def read(path: str, *, device: int | None = None) -> History:
    """A history from a file of any kind.

    Args:
        path: of the file.
        device: its index, where the file holds several.

    Raises:
        SourceError: it cannot be read.
        InputError: it is damaged, of no known kind, or holds several devices and none is named.
        UnsupportedError: a pickle that names anything.
    """
    which = kind(path)
    if which is None:
        raise InputError("no profile of a kind that is read", key="recording", value=path, file=path, hint=HINT)
    if which == "nsight":
        from tonnage.sources import nsight

        return nsight.history(path, device)
    return _unpacked(which, content(path), path, device)


def _unpacked(which: str, data: bytes, path: str, device: int | None) -> History:
    """A history from the bytes of a file. Each kind's module is imported when it is there."""
    if data.startswith(PICKLE):
        from tonnage.sources.snapshot import Plain

        return snapshot(Plain(data, path).run(), path, device)
    if which == "pprof":
        from tonnage.sources import pprof

        return pprof.history(data, path, device)
    printed = data.lstrip().startswith(b"CompiledMemoryStats")
    value = None if printed else parsed(data, path)
    if which == "snapshot":
        return snapshot(value, path, device)
    if which == "xla":
        from tonnage.sources import xla_memory

        return xla_memory.history(data, value, path)
    if which == "chrome":
        from tonnage.sources import chrome_trace

        return chrome_trace.history(value, path, device)
    from tonnage.sources import memory_timeline

    return memory_timeline.history(value, path)


def snapshot(value: Any, path: str, device: int | None) -> History:
    """A history from what a memory snapshot holds, or from its columns.

    Raises:
        InputError: it is none, or holds several devices.
    """
    from tonnage.sources import recording, snapshot_history

    if not isinstance(value, dict):
        raise wrong(path, f"no memory snapshot: an object is expected, not {type(value).__name__}")
    if value.get("device_traces") is None:
        value, device = snapshot_history.of_columns(value), 0
    return snapshot_history.history(value, path, recording.device_of(value, path, device))
