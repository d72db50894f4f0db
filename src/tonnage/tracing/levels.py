"""A trace through the model of the caching allocator: how much is held after every event, and at most in each part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from tonnage.allocator import Outcome, Settings, run
from tonnage.errors import InputError
from tonnage.record import Record
from tonnage.timeline import Instant
from tonnage.tracing.stream import LAYER, OUTSIDE, PHASE, UNREQUESTED, Traced

LOAD, BETWEEN, END = "load", "between", "end"

PARTS: Final = {
    # kind of phase: what stands before the layers, what a layer is called, what stands behind them
    "forward": ("forward embedding", "forward layer", "loss"),
    "backward": ("loss backward", "backward layer", "backward embedding"),
    "optimizer": ("optimizer step", "", ""),
    "prefill": ("prefill: embedding", "prefill: layer", "prefill: logits"),
    "decode": ("decode: embedding", "decode: layer", "decode: logits"),
}


class Part(Record):
    """A named stretch of events."""

    name: str
    start: int
    stop: int


class Levels(Record):
    """What is held over time.

    Args:
        traced: the events.
        parts: of the steady state, in order.
        requested: of live tensors, after each event. [byte]
        samples: requested (scratch and workspaces too), allocated and reserved after each event. [byte]
        outcome: of the allocator.
    """

    traced: Traced
    parts: tuple[Part, ...]
    requested: list[int]
    samples: list[tuple[int, int, int]]
    outcome: Outcome

    @property
    def window(self) -> list[int]:
        """Events of the steady state."""
        return [i for p in self.parts for i in range(p.start, p.stop)]

    @property
    def peak(self) -> int:
        """The event after which most is allocated."""
        return max(self.window, key=lambda i: self.samples[i][1])

    @property
    def reserved(self) -> int:
        """The most that the allocator holds in the steady state. [byte]"""
        return max(self.samples[i][2] for i in self.window)

    @property
    def highest(self) -> int:
        """The most that tensors alone take, which may be elsewhere than where most is allocated. [byte]"""
        return max(self.requested[i] for i in self.window)

    def instants(self) -> tuple[Instant, ...]:
        """The most that is allocated in each part; parts of one name are one."""
        found: dict[str, int] = {}
        for p in self.parts:
            before = self.samples[p.start - 1][1] if p.start else 0
            most = max((self.samples[i][1] for i in range(p.start, p.stop)), default=before)
            found[p.name] = max(found.get(p.name, 0), most, before)
        return tuple(Instant(name, n) for name, n in found.items())

    def alive(self, position: int) -> Iterator[int]:
        """Storages that are alive after an event."""
        found: dict[int, None] = {}
        for n in self.traced.order[: position + 1]:
            if n >= 0:
                found[n] = None
            else:
                del found[~n]
        # Scratch is gone by the next event, but is there after its own.
        return iter(found)


def levels(traced: Traced, settings: Settings | None = None) -> Levels:
    """Play a trace to the allocator.

    Args:
        traced: the events.
        settings: of the allocator; torch's defaults where None.

    Raises:
        InputError: nothing was made.
    """
    traced = without(traced, BETWEEN)
    steady = tuple(parts(traced))
    if not steady:
        raise InputError(
            "nothing was made on the traced device", key="trace",
            hint="build the model and its inputs in what is traced, and name no other device",
        )  # fmt: skip
    samples: list[tuple[int, int, int]] = []
    outcome = run(traced.events(), settings, samples=samples)
    requested, now = [], 0
    for n in traced.order:
        b = traced.born[n if n >= 0 else ~n]
        if b.kind not in UNREQUESTED:
            now += b.size if n >= 0 else -b.size
        requested.append(now)
    return Levels(traced, steady, requested, samples, outcome)


def parts(traced: Traced) -> Iterator[Part]:
    """The parts of the steady state: those of the last step, or of all of a request."""
    phases = [
        (name, start, stop) for name, start, stop in traced.phases() if name not in (BETWEEN, END) and stop > start
    ]
    steps = {name.partition(".")[0] for name, _, _ in phases if name.startswith("step")}
    if steps:
        last = max(steps, key=lambda s: int(s[4:]))
        phases = [p for p in phases if p[0].startswith(f"{last}.")]
    layered = any(m.what == LAYER for m in traced.marks)
    for name, start, stop in phases:
        kind = name.rpartition(".")[2]
        if layered:
            yield from _split(traced, PARTS.get(kind, (name, f"{name}: layer", name)), start, stop)
        else:
            yield Part(PARTS[kind][0] if kind == "optimizer" else kind, start, stop)


def _split(traced: Traced, names: tuple[str, str, str], start: int, stop: int) -> Iterator[Part]:
    """A phase cut where its layers begin."""
    before, layer, behind = names
    now, since = before, start
    for m in traced.marks:
        if m.what != LAYER or not start <= m.position < stop:
            continue
        then = f"{layer} {m.value}" if m.value != OUTSIDE else behind
        if not layer or then == now:
            continue
        if m.position > since:
            yield Part(now, since, m.position)
        now, since = then, m.position
    yield Part(now, since, stop)


def without(traced: Traced, phase: str) -> Traced:
    """The trace as if only what a phase left behind had been made in it."""
    spans = [(start, stop) for name, start, stop in traced.phases() if name == phase]
    if not spans:
        return traced
    gone = {n for start, stop in spans for n in _passing(traced.order[start:stop])}
    keep = [i for i, n in enumerate(traced.order) if (n if n >= 0 else ~n) not in gone]
    moved, place = [0] * (len(traced.order) + 1), 0
    kept = set(keep)
    for i in range(len(traced.order) + 1):
        moved[i] = place
        place += i in kept
    marks = [
        m._replace(position=moved[m.position])
        for m in traced.marks
        if m.what == PHASE or not any(start <= m.position < stop for start, stop in spans)
    ]
    return traced.but(order=[traced.order[i] for i in keep], marks=marks)


def _passing(order: Iterable[int]) -> set[int]:
    """Storages that are born and die here."""
    born: set[int] = set()
    gone: set[int] = set()
    for n in order:
        if n >= 0:
            born.add(n)
        elif ~n in born:
            gone.add(~n)
    return gone
