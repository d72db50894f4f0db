"""A memory snapshot of PyTorch as a history: every storage with the stack that made it, private pools too.

What allocations asked for is told, so the tier is requested; segments tell what was reserved after each event.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tonnage.errors import InputError
from tonnage.history import BEFORE, UNTOLD, Book, History, Life
from tonnage.sources._frames import CATEGORIES, NO_STACK, PYTHON, Frames, gradients

DEEPEST: Final = 400
"""Frames of a stack that are read."""
LARGEST: Final = 2**63
_TAKES: Final = {"segment_alloc": 1, "segment_map": 1, "segment_free": -1, "segment_unmap": -1}
_LIVE: Final = "active_allocated"
_OPERATOR: Final = re.compile(r"at::_ops::(\w+)::(?:call|redispatch)")
_PLUMBING: Final = re.compile(r"torch::unwind|CapturedTraceback|gather_with_cpp|CachingAlloc")


class _Reader:
    """Reads one device of a snapshot.

    Args:
        file: for messages.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.frames = Frames()
        self.stacks: dict[int, tuple[list[Any], tuple[str, ...]]] = {}
        self.texts: dict[tuple[str, int, str], str] = {}
        self.book = Book()
        self.zeroed: set[int] = set()

    def wrong(self, what: str) -> InputError:
        """The error for what the file holds."""
        return InputError(f"no memory snapshot: {what}", key="recording", file=self.file)

    def stack(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The frames of an entry, the innermost first, without those of the recorder itself."""
        given = row.get("frames") or ()
        if not isinstance(given, list):
            return ()
        # A pickle holds equal stacks as one list: it is kept beside its reading, so that its id stays its own.
        known = self.stacks.get(id(given))
        if known is not None:
            return known[1]
        found = self.frames.kept([t for f in given[:DEEPEST] if (t := self.text(f))])
        self.stacks[id(given)] = (given, found)
        return found

    def text(self, frame: Any) -> str:
        """A frame as ``file:line function``; a frame of C++ as its function."""
        try:
            key = (frame["filename"], frame["line"], frame["name"])
            found = self.texts.get(key)
        except (KeyError, TypeError):
            return ""
        if found is None:
            file, line, name = key
            if not isinstance(name, str) or not isinstance(file, str) or type(line) is not int:
                return ""
            found = f"{file[-200:]}:{line} {name[:200]}" if line else name[:200]
            self.texts[key] = found = "" if found == "??" or _PLUMBING.search(found) else found
        return found

    def life(self, size: int, row: Mapping[str, Any], untold: str = "") -> Life:
        """A storage by the stack that made it."""
        stack = self.stack(row)
        told = self.frames.told(stack)
        name = untold if untold and told.name in (NO_STACK, UNTOLD) else told.name
        stated = row.get("category")
        if isinstance(stated, str) and stated in CATEGORIES:
            name = CATEGORIES[stated]
        return Life(size, name, operation(stack), told.where, stack)

    def number(self, row: Mapping[str, Any], key: str) -> int:
        """A whole number of an entry."""
        found = row.get(key)
        if type(found) is not int or not 0 <= found < LARGEST:
            raise self.wrong(f"{key} is no whole number")
        return found

    def entry(self, row: Any) -> int:
        """One entry; by how much it changes what is reserved. [byte]"""
        if not isinstance(row, dict) or not isinstance(row.get("action"), str):
            raise self.wrong("an entry without action")
        action = row["action"]
        if action in _TAKES:
            return _TAKES[action] * self.number(row, "size")
        if action == "alloc":
            size = self.number(row, "size")
            self.book.born(self.number(row, "addr"), self.life(size, row))
        elif action == "free_requested":
            address = self.number(row, "addr")
            number = self.book.live.get(address)
            if number is not None and any("zero_grad" in frame for frame in self.stack(row)):
                self.zeroed.add(number)
            self.book.died(address, self.number(row, "size"))
        return 0

    def blocks(self, segments: Sequence[Any]) -> int:
        """Blocks that were there from before to the end; what is reserved at the end. [byte]"""
        held = 0
        for segment in segments:
            if not isinstance(segment, dict) or not isinstance(segment.get("blocks"), list):
                raise self.wrong("a segment without blocks")
            held += self.number(segment, "total_size")
            at = segment.get("address")
            for block in segment["blocks"]:
                if not isinstance(block, dict):
                    continue
                address = block.get("address", at)
                size = self.number(block, "size")
                if block.get("state") == _LIVE and address not in self.book.live:
                    asked = block.get("requested_size")
                    self.book.before(self.life(asked if type(asked) is int and asked >= 0 else size, block, BEFORE))
                at = address + size if type(address) is int else None
        return held


def operation(stack: Sequence[str]) -> str:
    """The operator that a stack ends in; its innermost function where none is named.

    >>> operation(["at::detail::empty_cuda(...)", "at::_ops::mm::call(at::Tensor const&)", "train.py:3 <module>"])
    'aten::mm'
    """
    for frame in stack:
        found = _OPERATOR.search(frame)
        if found and not found[1].startswith("empty"):
            return f"aten::{found[1]}"
    return stack[0].rpartition(" ")[2] if stack and PYTHON.search(stack[0]) else stack[0] if stack else ""


def of_columns(value: Mapping[str, Any]) -> dict[str, Any]:
    """A recording's columns in the shape of a snapshot; what is no row stays and is refused there."""
    rows, segments = value.get("events"), value.get("segments")
    keys = ("action", "addr", "size", "stream")
    fields = ("address", "size", "requested_size", "state")
    if isinstance(rows, list):
        rows = [dict(zip(keys, row, strict=False)) if isinstance(row, list) else row for row in rows]
    if isinstance(segments, list):
        segments = [_with_blocks(s, fields) if isinstance(s, dict) else s for s in segments]
    return {"device_traces": [rows], "segments": segments}


def _with_blocks(segment: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    blocks = segment.get("blocks")
    if not isinstance(blocks, list):
        return dict(segment)
    return {**segment, "blocks": [dict(zip(fields, b, strict=False)) if isinstance(b, list) else b for b in blocks]}


def history(value: Mapping[str, Any], file: str, device: int) -> History:
    """One device of a snapshot.

    Args:
        value: what ``torch.cuda.memory._snapshot()`` returns.
        file: for messages.
        device: its index.

    Raises:
        InputError: it is no snapshot.
    """
    reader = _Reader(file)
    traces, segments = value.get("device_traces"), value.get("segments")
    if not isinstance(traces, list) or not isinstance(segments, list):
        raise reader.wrong("'segments' and 'device_traces' are expected")
    rows = traces[device] if device < len(traces) else []
    if not isinstance(rows, list):
        raise reader.wrong("the events are no list")
    changes: list[int] = []
    reserved = 0
    times: list[int] = []
    for row in rows:
        before = len(reader.book.order)
        reserved += reader.entry(row)
        more = len(reader.book.order) - before
        changes += [reserved] * more
        if type(row.get("time_us")) is int:
            times += [row["time_us"] * 1000] * more
    end = reader.blocks([s for s in segments if isinstance(s, dict) and s.get("device", 0) == device])
    return _closed(reader, changes, end - reserved, times, device)


def _closed(reader: _Reader, changes: list[int], begin: int, times: list[int], device: int) -> History:
    book = reader.book
    gradients(book, reader.zeroed)
    order, earlier = book.closed(), len(book.earlier)
    first = times[0] if times else 0
    notes = ["components are told by the stack of each allocation: an attribution, not a fact of the file"]
    if earlier:
        notes.append(f"{earlier:,} storages were there before the recording began")
    if book.lost:
        notes.append(f"{book.lost:,} storages were allocated over others whose death is not recorded")
    return History(
        kind="PyTorch memory snapshot",
        file=reader.file,
        device=f"cuda:{device}",
        tier="requested",
        lives=book.lives,
        order=order,
        times=[0] * earlier + [t - first for t in times] if len(times) == len(changes) and times else (),
        others={"reserved": [begin] * earlier + [begin + c for c in changes]},
        begin=earlier,
        notes=tuple(notes),
    )
