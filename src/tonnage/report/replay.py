"""The answer to ``replay``: recorded and replayed side by side, and what a device would have done."""

from __future__ import annotations

from typing import Any

from tonnage.allocator.answer import Answer, OnDevice
from tonnage.allocator.recording import Recording
from tonnage.report.text import table, width, wrapped
from tonnage.units import gib

SHOWN = 100
"""Retries that are listed one by one."""


def as_dict(answer: Answer) -> dict[str, Any]:
    """The JSON contract of ``replay``. Mismatches are null under other settings than the recorded ones."""
    recording, r = answer.recording, answer.replayed
    played = r if r is not None else answer.outcome
    assert played is not None
    return {
        "schema": 1,
        "recording": answer.name,
        "settings": answer.settings,
        "allocations": allocations(recording),
        "address_mismatches": None if r is None else r.address_mismatches,
        "segment_mismatches": None if r is None else r.segment_mismatches,
        "first_mismatch": None if r is None else r.first_mismatch,
        "guessed_blocks": None if r is None else r.guessed,
        "reserved_bytes": played.reserved,
        "allocated_bytes": played.allocated,
        "recorded_reserved_bytes": recording.reserved,
        "recorded_allocated_bytes": recording.allocated,
        "peak_reserved_bytes": played.peak_reserved,
        "peak_allocated_bytes": played.peak_allocated,
        "peak_requested_bytes": played.peak_requested,
        "events_per_second": round(answer.events / answer.seconds) if answer.seconds > 0 else None,
        "device": None if answer.on is None else _device(answer.on),
    }


def allocations(recording: Recording) -> int:
    """How many a recording has."""
    return sum(action == "alloc" for action, _, _, _ in recording.entries)


def _device(on: OnDevice) -> dict[str, Any]:
    o, failed = on.outcome, on.outcome.failed
    return {
        "name": on.room.name,
        "capacity_bytes": on.room.likely,
        "range": [on.room.low, on.room.high],
        "verdict": on.verdict,
        "peak_reserved_bytes": o.peak_reserved,
        "peak_allocated_bytes": o.peak_allocated,
        "retries": len(on.retries),
        "retried_at": list(on.retries[:SHOWN]),
        "out_of_memory": None
        if failed is None
        else {
            "entry": on.entry,
            "block_bytes": failed.size,
            "segment_bytes": failed.segment,
            "allocated_bytes": failed.allocated,
            "reserved_bytes": failed.reserved,
            "inactive_split_bytes": failed.split,
            "largest_free_bytes": failed.largest,
        },
    }


def render(answer: Answer) -> str:
    """Recorded and replayed, whether they agree, and the device."""
    recording, r = answer.recording, answer.replayed
    played = r if r is not None else answer.outcome
    assert played is not None
    what = "replayed" if r is not None else f"under {answer.settings or 'the default settings'}"
    rows = [("", "recorded", what, "difference")]
    for name, a, b in (
        ("reserved", recording.reserved, played.reserved),
        ("allocated", recording.allocated, played.allocated),
    ):
        rows.append((f"{name} at the end", f"{a:,} B", f"{b:,} B", f"{b - a:+,}"))
    rows.append(("peak reserved", "", f"{played.peak_reserved:,} B", ""))
    rows.append(("peak allocated", "", f"{played.peak_allocated:,} B", ""))
    rows.append(("peak requested", "", f"{played.peak_requested:,} B", ""))
    speed = f", {answer.events / answer.seconds:,.0f} events/s" if answer.seconds > 0 else ""
    out = [
        f"replay {answer.name}: {allocations(recording):,} allocations{speed}",
        "",
        table(rows, right=frozenset({1, 2, 3})),
    ]
    out += ["", *_agreement(answer)]
    if answer.on is not None:
        out += _on(answer.on)
    return "\n".join(out + wrapped("note", _notes(answer), width()))


def _agreement(answer: Answer) -> list[str]:
    r = answer.replayed
    if r is None:
        return []
    if not r.address_mismatches and not r.segment_mismatches:
        return ["every allocation landed at its recorded address, every segment has its recorded size"]
    return [
        f"{r.address_mismatches:,} allocations landed elsewhere, {r.segment_mismatches:,} segments differ; "
        f"first at entry {r.first_mismatch:,}"
    ]


def _on(on: OnDevice) -> list[str]:
    o, failed = on.outcome, on.outcome.failed
    room = on.room
    span = f" ({gib(room.low)} to {gib(room.high)})" if room.low != room.high else ""
    peak = gib(o.peak_reserved)
    out = [f"{on.verdict.upper()} on {room.name}: {gib(room.likely)}{span} for the allocator, peak reserved {peak}"]
    if on.retries:
        first = _entry(on.retries[0])
        out.append(f"cached segments given back for want of memory: {len(on.retries):,} times, first {first}")
    if failed is not None:
        out.append(
            f"out of memory {_entry(on.entry)}: {gib(failed.segment)} asked for with {gib(failed.reserved)} reserved,"
            f" of which {gib(failed.allocated)} allocated and {gib(failed.split)} free in segments in use"
        )
    return out


def _entry(entry: int | None) -> str:
    return "before the recording began" if entry is None or entry < 0 else f"at entry {entry:,}"


def _notes(answer: Answer) -> list[str]:
    notes = []
    if answer.replayed is not None and answer.replayed.guessed:
        notes.append(
            f"{answer.replayed.guessed:,} blocks were live before the recording began and freed later: their sizes are "
            "not told, and follow from what was asked for and what lies behind them"
        )
    if answer.replayed is None:
        notes.append("what was live when the recording began is allocated first, in order of address")
    if answer.on is not None:
        notes.append(
            "a device is asked for memory as recorded; segments that the recording gave back are given back at the "
            "same place, whether the program or a lack of memory did it there"
        )
    return notes
