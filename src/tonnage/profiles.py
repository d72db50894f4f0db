"""A profile of any kind as a history, with what the model of the allocator and the tracer add to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tonnage.errors import InputError, TonnageError
from tonnage.history import History, Life, Span

if TYPE_CHECKING:
    from tonnage.allocator.answer import Answer


def read(path: str, *, device: int | None = None) -> History:
    """A history from a profile, or from a trace that ``tonnage trace --out`` wrote.

    A snapshot tells what was asked for and reserved; what was allocated in whole blocks follows from a replay, where
    the allocator's model can follow it.

    Args:
        path: of the file.
        device: its index, where the file holds several.

    Raises:
        SourceError: it cannot be read.
        InputError: it is damaged, of no known kind, or holds several devices and none is named.
        UnsupportedError: a pickle that names anything.
    """
    from tonnage.sources import profile

    traced = _traced(path) if os.path.isfile(path) and profile.kind(path) is None else None
    if traced is not None:
        return traced
    found = profile.read(path, device=device)
    if found.kind != "PyTorch memory snapshot":
        return found
    from tonnage.allocator.answer import answer
    from tonnage.sources.recording import read as recording

    try:
        return with_blocks(found, answer(recording(path, device=device), "", None, None))
    except TonnageError as e:
        return found.but(notes=(*found.notes, f"whole blocks are not told: {e.message}"))


def with_blocks(history: History, answer: Answer) -> History:
    """A snapshot's history with the largest sum of whole blocks, from its replay."""
    played = answer.replayed or answer.outcome
    return history if played is None else history.but(peaks={"allocated": played.peak_allocated})


def of_replay(answer: Answer, path: str, device: int | None) -> History:
    """The history of a snapshot that was replayed."""
    from tonnage.sources import profile

    return with_blocks(profile.read(path, device=device), answer)


def result(path: str) -> Mapping[str, Any] | None:
    """A profile as a side of ``compare``; None where the text names none.

    Raises:
        SourceError, InputError, UnsupportedError: as ``read`` does.
    """
    from tonnage.report.alive import as_result
    from tonnage.sources import profile

    return as_result(read(path)) if profile.kind(path) is not None else None


def is_recording(path: str) -> bool:
    """Whether a file goes to the model of the allocator: a snapshot, and what is neither a profile nor a trace."""
    from tonnage.sources import profile
    from tonnage.sources._unpack import start

    found = profile.kind(path)
    if found is not None or not os.path.isfile(path):
        return found in (None, "snapshot")
    return b'"schema"' not in start(path, 4096)


def of_trace(traced: Any, file: str) -> History:
    """A history from a trace: what the tracer knows of each storage, reserved bytes by the allocator's model."""
    from tonnage.allocator import run
    from tonnage.tracing.answer import component

    samples: list[tuple[int, int, int]] = []
    run(traced.events(), samples=samples)
    lives = []
    for b in traced.born:
        stack = (f"{'x'.join(map(str, b.shape)) or 'scalar'} {b.dtype}", *([b.node] if b.node else ()))
        lives.append(Life(b.size, component(b, traced.told), b.op.removeprefix("aten."), b.module, stack))
    return History(
        kind="trace of tonnage",
        file=file,
        device="",
        tier="requested",
        lives=lives,
        order=traced.order,
        others={"allocated": [a for _, a, _ in samples], "reserved": [r for _, _, r in samples]},
        spans=tuple(Span(name, start, stop) for name, start, stop in traced.phases()),
        notes=("sizes as the program asked for them; whole blocks and segments by the model of the caching allocator",),
    )


def _traced(path: str) -> History | None:
    from tonnage.sources._unpack import content, parsed, start
    from tonnage.tracing.stream import from_dict, is_trace

    head = start(path, 4096).lstrip()
    if not head.startswith(b"{") or b'"schema"' not in head:
        return None
    value = parsed(content(path), path)
    if not is_trace(value):
        if isinstance(value, dict) and "ranks" in value:
            raise InputError(
                "a result tells instants and no storages", key="recording", value=path, file=path,
                hint="tonnage compare lays it beside a profile",
            )  # fmt: skip
        return None
    return of_trace(from_dict(value, path), path)
