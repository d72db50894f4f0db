"""A Chrome trace of ``torch.profiler`` with memory events: storages by address, operator, module and range.

``[memory]`` instants of Kineto (``profile_memory=True``); sizes on a CPU are as asked for, those on an accelerator are
whole blocks. What was running is told by the complete events of the same thread that enclose an instant; frames of
Python are there with ``with_stack=True``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tonnage.errors import InputError
from tonnage.history import BEFORE, Book, History, Life, Span
from tonnage.sources._frames import PYTHON, Frames, gradients
from tonnage.sources._nested import Nested, Range
from tonnage.sources._unpack import EVENTS, whole, wrong

MEMORY: Final = "[memory]"
DEEPEST: Final = 60
"""Frames that are kept of a stack; all of them say what it is for."""
RUNNING: Final = frozenset(("cpu_op", "python_function", "user_annotation"))
DEVICES: Final = {0: "cpu", 1: "cuda", 6: "hip", 9: "xla", 12: "xpu", 13: "mps", 14: "meta", 15: "hpu"}
"""``c10::DeviceType`` of pytorch/pytorch."""
CPU: Final = 0


class Instant(NamedTuple):
    """One memory event: when, in which order and thread, where, by how much [byte], and the totals that it tells."""

    time: float
    order: int
    thread: object
    address: int
    change: int
    allocated: int
    reserved: int


def history(value: Any, file: str, index: int | None) -> History:
    """The memory events of one device.

    Args:
        value: the trace.
        file: for messages.
        index: of the device; where None, the only accelerator, else the CPU.

    Raises:
        InputError: no trace with memory events, or several devices.
    """
    rows = value.get("traceEvents") if isinstance(value, dict) else value
    if not isinstance(rows, list) or len(rows) > EVENTS:
        raise wrong(file, f"'traceEvents' is expected, a list of at most {EVENTS:,}")
    rows = [row for row in rows if isinstance(row, dict)]
    kind, at = device(rows, file, index)
    found = [instant(row, i, file) for i, row in enumerate(rows) if _is_of(row, kind, at)]
    found.sort(key=lambda x: (x.time, x.order))
    ranges = running(rows, file)
    spans = [r for rs in ranges.values() for r in rs if r.kind == "user_annotation"]
    return _history(found, ranges, spans, file, DEVICES.get(kind, f"device type {kind}") + (f":{at}" if kind else ""))


def device(rows: list[dict[str, Any]], file: str, index: int | None) -> tuple[int, int]:
    """Type and index of the device that is meant."""
    there: dict[tuple[int, int], int] = {}
    for row in rows:
        told = row.get("args")
        if row.get("name") == MEMORY and isinstance(told, dict):
            which, number = told.get("Device Type"), told.get("Device Id", -1)
            if type(which) is int and type(number) is int:
                there[which, number] = there.get((which, number), 0) + 1
    if not there:
        raise InputError(
            "the trace has no memory events", key="recording", file=file,
            hint="record it with torch.profiler.profile(profile_memory=True)",
        )  # fmt: skip
    meant = [key for key in there if key[0] != CPU and (index is None or key[1] == index)]
    if len(meant) > 1 or (index is not None and not meant):
        names = ", ".join(str(key[1]) for key in sorted(there) if key[0] != CPU) or "none"
        raise InputError(
            f"the trace holds devices {names}", key="device", value=index, file=file, hint="name one with --device"
        )
    return meant[0] if meant else next(iter(there))


def _is_of(row: Mapping[str, Any], kind: int, at: int) -> bool:
    told = row.get("args")
    return (
        row.get("name") == MEMORY
        and isinstance(told, dict)
        and told.get("Device Type") == kind
        and told.get("Device Id", -1) == at
    )


def instant(row: Mapping[str, Any], position: int, file: str) -> Instant:
    """One memory event."""
    told: Mapping[str, Any] = row["args"]
    time: Any = row.get("ts")
    figures: list[Any] = [told.get("Addr"), told.get("Bytes"), told.get("Total Allocated", -1)]
    figures.append(told.get("Total Reserved", -1))
    if not all(map(whole, figures)) or not _is_time(time):
        raise wrong(file, f"event {position:,} of the trace has no address, size, time and totals")
    order = told.get("Ev Idx", position)
    return Instant(float(time), order if type(order) is int else position, thread_of(row), *figures)


def thread_of(row: Mapping[str, Any]) -> int | str | None:
    """The thread that an event is of."""
    found = row.get("tid")
    return found if isinstance(found, int | str) else None


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18


def running(rows: list[dict[str, Any]], file: str) -> dict[object, list[Range]]:
    """What ran, by thread."""
    found: dict[object, list[Range]] = {}
    for row in rows:
        kind = row.get("cat")
        if row.get("ph") != "X" or not isinstance(kind, str) or kind not in RUNNING:
            continue
        start: Any = row.get("ts")
        length: Any = row.get("dur")
        name, thread = row.get("name"), thread_of(row)
        if _is_time(start) and _is_time(length) and isinstance(name, str) and thread is not None:
            found.setdefault(thread, []).append(Range(start, start + length, name[:300], kind))
    return found


def _where(stack: list[Range], line: str) -> str:
    module = next((r.name for r in stack if r.name.startswith("nn.Module: ")), "")
    return module or line or next((r.name for r in stack if r.kind == "user_annotation"), "")


def _history(
    found: list[Instant], ranges: Mapping[object, list[Range]], spans: list[Range], file: str, name: str
) -> History:
    frames, book = Frames(), Book()
    stacks = {thread: Nested(r) for thread, r in ranges.items()}
    reserved: list[int] = []
    zeroed: set[int] = set()
    for x in found:
        stack = stacks[x.thread].at(x.time) if x.thread in stacks else []
        texts = frames.kept([r.name for r in stack[:DEEPEST]])
        if x.change >= 0:
            component = frames.component([r.name for r in stack])
            what = next((r.name for r in stack if r.kind == "cpu_op"), "")
            book.born(x.address, Life(x.change, component, what, _where(stack, frames.told(texts).where), texts))
        else:
            n = book.live.get(x.address)
            if n is not None and any("zero_grad" in text for text in texts):
                zeroed.add(n)
            book.died(x.address, -x.change)
        reserved.append(max(x.reserved, 0))
    gradients(book, zeroed)
    _rest(found, book)
    earlier = len(book.earlier)
    times = [x.time for x in found]
    return History(
        kind="Chrome trace of torch.profiler",
        file=file,
        device=name,
        tier="requested" if name == "cpu" else "allocated",
        lives=book.lives,
        order=book.closed(),
        times=[0] * earlier + [round((t - times[0]) * 1000) for t in times],
        others={} if name == "cpu" or not any(reserved) else {"reserved": reserved[:1] * earlier + reserved},
        spans=_spans(spans, times, earlier),
        begin=earlier,
        notes=_notes(frames, book, found),
    )


def _rest(found: list[Instant], book: Book) -> None:
    """What was allocated when recording began and stays to its end."""
    if found and found[0].allocated >= 0:
        rest = found[0].allocated - found[0].change - sum(book.lives[n].size for n in book.earlier)
        if rest > 0:
            book.before(Life(rest, BEFORE, "in all, as the counter tells"))


def _spans(ranges: list[Range], times: list[float], earlier: int) -> tuple[Span, ...]:
    """Ranges of the user by the events that they enclose."""
    told = []
    for r in sorted(ranges):
        start, stop = bisect_left(times, r.start), bisect_right(times, r.end)
        if start < stop:
            told.append(Span(r.name, start + earlier, stop + earlier))
    return tuple(told)


def _notes(frames: Frames, book: Book, found: list[Instant]) -> tuple[str, ...]:
    notes = ["components are told by what was running at each allocation: an attribution, not a fact of the file"]
    if not any(PYTHON.search(frame) for stack in frames.stacks() for frame in stack):
        notes.append("the trace has no frames of Python: record it with with_stack=True to have modules told")
    if book.lost:
        notes.append(f"{book.lost:,} storages were allocated over others whose death is not recorded")
    return tuple(notes)
