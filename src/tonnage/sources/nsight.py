"""Nsight Systems' SQLite export: what a process took from the driver, by call and NVTX range.

``nsys profile --cuda-memory-usage=true``, then ``nsys export --type sqlite``: the table CUDA_GPU_MEMORY_USAGE_EVENTS,
by the schema that NVIDIA publishes (nsys-exporter, exported_data; schema 3.16 of release 2024.6). These are calls of
``cudaMalloc`` and its like: with PyTorch they are segments of the caching allocator, so the tier is reserved.

A database is code of a stranger: it is opened for reading only, views and generated columns are not asked, and a clock
ends what takes too long.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing, contextmanager
from time import monotonic
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from tonnage.errors import InputError, SourceError
from tonnage.history import Book, History, Life, Span
from tonnage.sources._files import opened
from tonnage.sources._frames import RULES, Frames
from tonnage.sources._nested import Nested, Range
from tonnage.sources._unpack import EVENTS, whole, wrong

MAGIC: Final = b"SQLite format 3\x00"
TABLE: Final = "CUDA_GPU_MEMORY_USAGE_EVENTS"
LARGEST: Final = 64 * 2**30
"""Of a database, of which a small part is read. [byte]"""
SECONDS: Final = 60.0
"""That reading may take."""
STEPS: Final = 100_000
"""Instructions of SQLite between two looks at the clock."""
KINDS: Final = {
    0: "Pageable", 1: "Pinned", 2: "Device", 3: "Array", 4: "Managed", 5: "Device Static", 6: "Managed Static",
    7: "Unknown",
}  # fmt: skip
"""ENUM_CUDA_MEM_KIND, where the export lacks it."""
HOST: Final = frozenset((0, 1))
ALLOCATION: Final = 0
PUSH_POP: Final = 59
NEEDED: Final = ("start", "deviceId", "address", "bytes", "memKind", "memoryOperationType")


class Row(NamedTuple):
    """One event of the table."""

    start: int
    process: int
    device: int
    context: int
    address: int
    bytes: int
    kind: int
    operation: int
    name: str
    correlation: int


class Call(NamedTuple):
    """A call of the runtime that took or gave back memory."""

    thread: int
    name: str


@contextmanager
def database(path: str) -> Iterator[sqlite3.Connection]:
    """A database that can do no harm.

    Raises:
        SourceError: the file cannot be read.
        InputError: it is damaged, or takes too long.
    """
    with opened(path) as file:
        if file.size > LARGEST:
            raise wrong(path, f"a database of {file.size:,} bytes is too large")
    until = monotonic() + SECONDS
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro&immutable=1", uri=True)) as found:
            found.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2**24)
            found.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
            found.set_progress_handler(lambda: int(monotonic() > until), STEPS)
            for pragma in ("trusted_schema=OFF", "query_only=ON", "cell_size_check=ON", "mmap_size=0"):
                found.execute(f"PRAGMA {pragma}")
            found.text_factory = lambda raw: raw.decode("utf-8", "replace")
            yield found
    except sqlite3.OperationalError as e:
        if "interrupted" in str(e):
            raise wrong(path, f"reading the database takes more than {SECONDS:.0f} s") from None
        raise wrong(path, f"a database that cannot be read: {e}") from None
    except (sqlite3.Error, sqlite3.Warning, OverflowError) as e:
        raise wrong(path, f"a damaged database: {e}") from None
    except OSError as e:
        raise SourceError(f"cannot read {path}: {e.strerror or e}", key="recording", file=path) from None


def columns(db: sqlite3.Connection, table: str) -> set[str]:
    """The stored columns of a real table; empty where there is none of that name."""
    kind = db.execute("SELECT type FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    if kind is None or kind[0] != "table":
        return set()
    # The last field is 0 for a stored column and else tells a hidden or a computed one.
    return {str(row[1]) for row in db.execute(f"PRAGMA table_xinfo({table})") if row[6] == 0}


def selected(db: sqlite3.Connection, table: str, names: tuple[str, ...], tail: str = "") -> Iterator[tuple[Any, ...]]:
    """Rows of a table; a column that it lacks is NULL. Names are ours, never the file's."""
    there = columns(db, table)
    if not there:
        return
    asked = ", ".join(f'"{name}"' if name in there else "NULL" for name in names)
    yield from db.execute(f'SELECT {asked} FROM "{table}" {tail} LIMIT {EVENTS}')


def history(path: str, index: int | None) -> History:
    """What one device was asked for.

    Args:
        path: of the database.
        index: of the device; where None, the only one.

    Raises:
        SourceError: it cannot be read.
        InputError: no memory events, a damaged database, or several devices.
    """
    with database(path) as db:
        missing = [name for name in NEEDED if name not in columns(db, TABLE)]
        if missing:
            raise InputError(
                f"the export has no table {TABLE} with {', '.join(missing)}", key="recording", file=path,
                hint="record with nsys profile --cuda-memory-usage=true and export with nsys export --type sqlite",
            )  # fmt: skip
        rows = _rows(db, path)
        device = _device(rows, index, path)
        kinds = dict(KINDS)
        kinds |= {i: str(label) for i, label in selected(db, "ENUM_CUDA_MEM_KIND", ("id", "label")) if i in KINDS}
        calls, stacks = _calls(db, rows)
        ranges = _ranges(db)
    own = [row for row in rows if row.device == device and row.kind not in HOST]
    return _history(own, rows, kinds, calls, stacks, ranges, path, device)


def _rows(db: sqlite3.Connection, path: str) -> list[Row]:
    names = ("start", "globalPid", "deviceId", "contextId", "address", "bytes", "memKind", "memoryOperationType",
             "name", "correlationId")  # fmt: skip
    found = []
    for row in selected(db, TABLE, names, "ORDER BY start, rowid"):
        numbers = [0 if value is None else value for value in (*row[:8], row[9])]
        if not all(map(whole, numbers)) or numbers[5] < 0:
            raise wrong(path, f"a row of {TABLE} that is not whole numbers")
        start, process, device, context, address, size, kind, operation, correlation = numbers
        name = "" if row[8] is None else str(row[8])[:200]
        found.append(Row(start, process, device, context, address, size, kind, operation, name, correlation))
    if not found:
        raise wrong(path, f"{TABLE} is empty")
    return found


def _device(rows: list[Row], index: int | None, path: str) -> int:
    there = sorted({row.device for row in rows if row.kind not in HOST})
    if index is None and len(there) == 1:
        return there[0]
    if index not in there:
        told = ", ".join(map(str, there)) or "none"
        raise InputError(
            f"the export holds devices {told}", key="device", value=index, file=path, hint="name one with --device"
        )
    assert index is not None
    return index


def _calls(
    db: sqlite3.Connection, rows: list[Row]
) -> tuple[dict[tuple[int, int], Call], dict[tuple[int, int], tuple[str, ...]]]:
    """Calls by process and correlation, and the stacks of those that have one."""
    wanted = {(row.process, row.correlation) for row in rows if row.correlation}
    texts: dict[int, str] = {}
    found: dict[tuple[int, int], tuple[int, int, int]] = {}
    for thread, correlation, name, chain in selected(
        db, "CUPTI_ACTIVITY_KIND_RUNTIME", ("globalTid", "correlationId", "nameId", "callchainId")
    ):
        # A thread's id is that of its process with the thread in the lowest 24 bits.
        if whole(thread) and whole(correlation) and (thread >> 24 << 24, correlation) in wanted:
            told = (thread, name if whole(name) else -1, chain if whole(chain) else -1)
            found[thread >> 24 << 24, correlation] = told
    chains = {chain for _, _, chain in found.values() if chain >= 0}
    frames: dict[int, list[tuple[int, int]]] = {}
    if chains:
        for chain, symbol, depth in selected(db, "CUDA_CALLCHAINS", ("id", "symbol", "stackDepth")):
            if chain in chains and whole(symbol) and whole(depth):
                frames.setdefault(chain, []).append((depth, symbol))
    needed = {name for _, name, _ in found.values()} | {symbol for rows_ in frames.values() for _, symbol in rows_}
    if needed:
        texts = {i: str(text)[:300] for i, text in selected(db, "StringIds", ("id", "value")) if i in needed}
    calls = {key: Call(thread, texts.get(name, "")) for key, (thread, name, _) in found.items()}
    stacks = {
        key: tuple(texts.get(symbol, "") for _, symbol in sorted(frames.get(chain, ())))
        for key, (_, _, chain) in found.items()
    }
    return calls, stacks


def _ranges(db: sqlite3.Connection) -> dict[int, list[Range]]:
    """NVTX ranges that were pushed and popped, by thread."""
    asked = ("start", "end", "eventType", "globalTid", "text", "textId")
    rows = [row for row in selected(db, "NVTX_EVENTS", asked) if row[2] == PUSH_POP and all(map(whole, row[:2]))]
    ids = {row[5] for row in rows if row[4] is None}
    texts = {i: text for i, text in selected(db, "StringIds", ("id", "value")) if i in ids} if ids else {}
    found: dict[int, list[Range]] = {}
    for start, end, _, thread, text, number in rows:
        name = str(text if text is not None else texts.get(number, ""))[:200]
        if name and whole(thread):
            found.setdefault(thread, []).append(Range(start, end, name))
    return found


def _where(ranges: Nested | None, time: int) -> str:
    """Names of the ranges that hold a moment, the outermost first."""
    return " > ".join(r.name for r in reversed(ranges.at(time)[:6])) if ranges is not None else ""


def _history(
    own: list[Row], rows: list[Row], kinds: dict[int, str], calls: dict[tuple[int, int], Call],
    stacks: dict[tuple[int, int], tuple[str, ...]], ranges: dict[int, list[Range]], path: str, device: int,
) -> History:  # fmt: skip
    book, frames = Book(), Frames()
    running = {thread: Nested(r) for thread, r in ranges.items()}
    for row in own:
        key = (row.process, row.context, row.address)
        if row.operation != ALLOCATION:
            book.died(key, row.bytes)
            continue
        call, stack = calls.get((row.process, row.correlation)), stacks.get((row.process, row.correlation), ())
        where = _where(running.get(call.thread), row.start) if call is not None else ""
        name = (
            frames.component(stack) if frames.rule_of(stack) < len(RULES) else f"other:{kinds[row.kind].lower()} memory"
        )
        what = row.name or (call.name if call is not None else "") or kinds[row.kind]
        book.born(key, Life(row.bytes, name, what, where, frames.kept(stack)))
    times, earlier = [row.start for row in own], len(book.earlier)
    return History(
        kind="Nsight Systems export",
        file=path,
        device=f"cuda:{device}",
        tier="reserved",
        lives=book.lives,
        order=book.closed(),
        times=[0] * earlier + [t - times[0] for t in times],
        spans=_spans(ranges, times, earlier),
        begin=earlier,
        notes=_notes(rows, book),
    )


def _spans(ranges: dict[int, list[Range]], times: list[int], earlier: int) -> tuple[Span, ...]:
    """Outermost ranges that hold an event."""
    told: list[Span] = []
    for own in ranges.values():
        until: float = -1
        for start, end, name, _ in sorted(own):
            if start < until:
                continue
            until = int(end)
            first, last = bisect_right(times, start - 1), bisect_right(times, end)
            if first < last:
                told.append(Span(name, first + earlier, last + earlier))
    return tuple(sorted(told, key=lambda s: s.start))


def _notes(rows: list[Row], book: Book) -> tuple[str, ...]:
    notes = ["calls of cudaMalloc and its like: with PyTorch, segments of its caching allocator and not tensors",
             "the context of the process is not among them"]  # fmt: skip
    held = most = 0
    for row in rows:
        if row.kind in HOST:
            held += row.bytes if row.operation == ALLOCATION else -row.bytes
            most = max(most, held)
    if most:
        notes.append(f"memory of the host, {most:,} B at most, is left out")
    if book.lost:
        notes.append(f"{book.lost:,} allocations lie over others whose end is not recorded")
    if len(rows) == EVENTS:
        notes.append(f"only the first {EVENTS:,} events are read")
    return tuple(notes)
