"""A recording of the caching allocator: a memory snapshot of PyTorch, or its columns as JSON, each also gzipped.

As JSON: ``segments`` with ``blocks`` ``[address, size, requested_size, state]``, ``events`` ``[action, address, size,
stream]`` and ``allocator_settings``, or what ``torch.cuda.memory._snapshot()`` returns.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from tonnage.allocator.recording import ACTIONS, Entry, Part, Recording, Segment
from tonnage.errors import InputError, UnsupportedError
from tonnage.sources._files import Local, opened

LARGEST: Final = 2**30
"""Of the file, and of what it unpacks to. [byte]"""
LARGEST_NUMBER: Final = 2**63
_KNOWN: Final = {name: name for name in ACTIONS}
_OTHERS: Final = frozenset(["snapshot", "oom", "user_defined"])


def read(path: str, *, device: int | None = None) -> Recording:
    """Read one recording.

    Args:
        path: of the file.
        device: index of the device; where None, the only one that has anything.

    Raises:
        SourceError: it cannot be read.
        InputError: it is no recording, damaged, or holds none of that device.
        UnsupportedError: a pickle that names anything.
    """
    return recorded(loaded(path), path, device)


def loaded(path: str) -> Any:
    """What a file holds, as plain values.

    Raises:
        SourceError: it cannot be read.
        InputError: it is damaged.
        UnsupportedError: a pickle that names anything.
    """
    with opened(path) as file:
        if file.size > LARGEST:
            raise _wrong(file.path, f"{file.size:,} bytes are too many for a recording")
        return _value(_unpacked(file.read(0, file.size), file), file)


def recorded(value: Any, path: str, device: int | None) -> Recording:
    """The recording that plain values make.

    Raises:
        InputError: it is none, or holds none of that device.
        UnsupportedError: private pools.
    """
    return _Shape(path).recording(value, device)


def device_of(value: Mapping[str, Any], path: str, asked: int | None) -> int:
    """The device of a snapshot that is meant: the only one that has anything, where none is named.

    Raises:
        InputError: several, or no such device.
    """
    shape = _Shape(path)
    return shape.device(shape.listed(value, "segments"), shape.listed(value, "device_traces"), asked)


def _wrong(file: str, what: str) -> InputError:
    return InputError(what, key="recording", file=file)


def _unpacked(data: bytes, file: Local) -> bytes:
    if not data.startswith(b"\x1f\x8b"):
        return data
    reader = zlib.decompressobj(wbits=31)
    try:
        found = reader.decompress(data, LARGEST)
    except zlib.error:
        raise _wrong(file.path, "a damaged gzip file") from None
    if not reader.eof:
        raise _wrong(file.path, "a truncated gzip file, or one that unpacks to more than 1 GiB")
    return found


def _value(data: bytes, file: Local) -> Any:
    """What the file holds, as plain values."""
    if data.startswith(b"\x80"):
        # Imported late: JSON needs no interpreter.
        from tonnage.sources.snapshot import Plain

        return Plain(data, file.path).run()
    if data.startswith(b"PK"):
        raise UnsupportedError(
            "a zip archive, as torch.save writes, is no memory snapshot", key="recording", file=file.path,
            hint="write it with torch.cuda.memory._dump_snapshot",
        )  # fmt: skip
    try:
        return json.loads(data)
    except (UnicodeDecodeError, ValueError, RecursionError) as e:
        at = f" at line {e.lineno}, column {e.colno}" if isinstance(e, json.JSONDecodeError) else ""
        raise _wrong(file.path, f"neither a memory snapshot nor JSON{at}") from None


class _Shape:
    """Brings plain values into the shape of a recording, checking each.

    Args:
        file: for messages.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def wrong(self, what: str) -> InputError:
        """The error for what the file holds."""
        return _wrong(self.file, f"no recording of the caching allocator: {what}")

    def recording(self, value: Any, device: int | None) -> Recording:
        """The whole."""
        if not isinstance(value, dict):
            raise self.wrong(f"an object is expected, not {type(value).__name__}")
        segments, traces = self.listed(value, "segments"), value.get("device_traces")
        if traces is None:
            rows, read = self.listed(value, "events"), self.column
        else:
            device = self.device(segments, self.listed(value, "device_traces"), device)
            segments = [s for s in segments if isinstance(s, dict) and s.get("device", 0) == device]
            rows, read = (traces[device] if device < len(traces) else []), self.trace
        if not isinstance(rows, list):
            raise self.wrong("the events are no list")
        found = [self.segment(s, i) for i, s in enumerate(segments)]
        return Recording(
            segments=tuple(sorted(found)),
            entries=self.entries(rows, read),
            settings=self.settings(value.get("allocator_settings")),
            file=self.file,
        )

    def listed(self, value: Mapping[str, Any], key: str) -> list[Any]:
        """The list under a key."""
        found = value.get(key)
        if not isinstance(found, list):
            raise self.wrong(f"{key!r} is {'missing' if found is None else 'no list'}")
        return found

    def device(self, segments: list[Any], traces: list[Any], asked: int | None) -> int:
        """The device that is meant: the only one with segments or events, where none is named."""
        used = {s.get("device", 0) for s in segments if isinstance(s, dict)}
        used |= {i for i, rows in enumerate(traces) if rows}
        if asked is None and len(used) == 1:
            asked = next(iter(used))
        if not isinstance(asked, int) or asked not in used:
            there = ", ".join(str(i) for i in sorted(used, key=repr)) or "none"
            raise InputError(
                f"the recording holds devices {there}", key="device", value=asked, file=self.file,
                hint="name one with --device",
            )  # fmt: skip
        return asked

    def settings(self, value: Any) -> str:
        """What ``PYTORCH_CUDA_ALLOC_CONF`` said."""
        stated = value.get("PYTORCH_CUDA_ALLOC_CONF", "") if isinstance(value, dict) else ""
        if not isinstance(stated, str):
            raise self.wrong("PYTORCH_CUDA_ALLOC_CONF is no text")
        return stated

    def entries(self, rows: list[Any], read: Callable[[Any], tuple[Any, Any, Any, Any]]) -> list[Entry]:
        """Events of one device that change what is held."""
        found: list[Entry] = []
        for index, row in enumerate(rows):
            try:
                action, address, size, stream = read(row)
                known = _KNOWN.get(action)
                if known is None:
                    if action in _OTHERS:
                        continue
                    raise self.wrong(f"event {index:,} has the unknown action {str(action)[:40]!r}")
                if type(address) is type(size) is type(stream) is int and 0 <= size < LARGEST_NUMBER > address >= 0:
                    found.append((known, address, size, stream))
                    continue
            except (KeyError, TypeError, ValueError):
                pass
            raise self.wrong(f"event {index:,} is not action, address, size and stream")
        return found

    def column(self, row: Any) -> tuple[Any, Any, Any, Any]:
        """An event as ``[action, address, size, stream]``."""
        action, address, size, stream = row
        return action, address, size, stream

    def trace(self, row: Any) -> tuple[Any, Any, Any, Any]:
        """An event as the snapshot has it."""
        action = row["action"]
        if row.get("pool_id", (0, 0)) not in ((0, 0), [0, 0]):
            raise self.private()
        if action in _OTHERS:
            return action, 0, 0, 0
        return action, row["addr"], row["size"], row["stream"]

    def private(self) -> UnsupportedError:
        """A pool of a CUDA graph or of ``torch.cuda.MemPool``."""
        return UnsupportedError(
            "the recording uses private pools (CUDA graphs or torch.cuda.MemPool), which are not modelled",
            key="recording", file=self.file,
        )  # fmt: skip

    def segment(self, value: Any, index: int) -> Segment:
        """One segment, whose blocks fill it."""
        if not isinstance(value, dict) or not isinstance(value.get("blocks"), list):
            raise self.wrong(f"segment {index:,} has no blocks")
        if tuple(value.get("segment_pool_id") or (0, 0)) != (0, 0):
            raise self.private()
        at, size, stream = (self.number(value, key, index) for key in ("address", "total_size", "stream"))
        end, parts = at, []
        for row in value["blocks"]:
            part = self.part(row, end, index)
            end = part.address + part.size
            parts.append(part)
        if end != at + size:
            raise self.wrong(f"the blocks of segment {index:,} do not fill it")
        small, expandable = value.get("segment_type") == "small", value.get("is_expandable") is True
        return Segment(at, size, stream, small, expandable, tuple(parts))

    def number(self, value: Mapping[str, Any], key: str, index: int) -> int:
        """A whole number of a segment."""
        found = value.get(key)
        if type(found) is not int or not 0 <= found < LARGEST_NUMBER:
            raise self.wrong(f"segment {index:,}: {key} is no whole number")
        return found

    def part(self, row: Any, at: int, index: int) -> Part:
        """A block, which begins where the one before it ends."""
        if isinstance(row, dict):
            row = [row.get("address", at), row.get("size"), row.get("requested_size"), row.get("state")]
        if not isinstance(row, list) or len(row) != 4:
            raise self.wrong(f"a block of segment {index:,} is not address, size, requested size and state")
        address, size, requested, state = row
        numbers = type(address) is type(size) is type(requested) is int
        if not numbers or address != at or not 0 < size < LARGEST_NUMBER or requested < 0 or not isinstance(state, str):
            raise self.wrong(f"a block of segment {index:,} does not begin where the one before it ends")
        return Part(address, size, requested, state)
