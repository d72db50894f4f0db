"""Identical layers traced a few times, and told as often as they stand.

A trace of a model with few layers is cut into runs: what happens in one layer, in each sweep over the layers. Two
neighbouring units of layers whose runs are alike, event for event, are a unit that repeats: copies of the second go in
between, in every sweep, and each copied death ends the storage that stands where the original's does. Every event of
the longer run is then there, so that every candidate for the peak and every block of the allocator is, too. What is
not alike is not repeated: the whole model is traced instead.
"""

from __future__ import annotations

import re
from typing import Final

from tonnage.record import Record
from tonnage.tracing.stream import LAYER, OUTSIDE, PHASE, WORKSPACE, Born, Mark, Traced

NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.|$)")

Key = tuple[int, int, int]
"""A storage by where it was born: sweep, layer, place in the run."""


class Uneven(Exception):  # noqa: N818
    """The layers are not alike in what they do: trace them all."""


class Unit(Record):
    """What repeats.

    Args:
        first: number of the first traced layer of the unit whose copies are told; the unit before it is its like.
        period: layers of a unit.
        times: copies to be added.
    """

    first: int
    period: int
    times: int

    @property
    def added(self) -> int:
        """Layers that are added."""
        return self.period * self.times


class Run:
    """Neighbouring events of one layer, or of none."""

    __slots__ = ("events", "layer", "marks", "sweep")

    def __init__(self, layer: int, sweep: int) -> None:
        self.layer = layer
        self.sweep = sweep
        self.events: list[int] = []
        self.marks: list[tuple[int, Mark]] = []


def spread(traced: Traced, unit: Unit) -> Traced:
    """The trace of the model with all its layers.

    Args:
        traced: with few of them; at least one unit, and one layer after it, surround the two that are compared.
        unit: what repeats.

    Raises:
        Uneven: the layers differ in what they do.
    """
    if not unit.times:
        return traced
    runs, behind = _runs(traced)
    born_at = _places(traced, runs)
    _alike(traced, runs, born_at, unit)
    return _Writer(traced, unit, born_at).write(runs, behind)


def _runs(traced: Traced) -> tuple[list[Run], list[Mark]]:
    """Events in runs: by where they happen, else by whose storage it is; and the marks behind the last event."""
    layer, marks = OUTSIDE, list(traced.marks)
    out: list[Run] = []
    course = _Course()
    for position, n in enumerate(traced.order):
        held: list[Mark] = []
        while marks and marks[0].position == position:
            held.append(marks.pop(0))
            layer = int(held[-1].value) if held[-1].what == LAYER else OUTSIDE
        where = layer if layer != OUTSIDE else traced.born[n if n >= 0 else ~n].layer
        if held or not out or out[-1].layer != where:
            out.append(Run(where, course.sweep(where, phase=any(m.what == PHASE for m in held))))
            out[-1].marks = [(0, m) for m in held]
        out[-1].events.append(n)
    return out, marks


class _Course:
    """Numbers sweeps over the layers: one ends where nothing of a layer happens, or where it turns back."""

    def __init__(self) -> None:
        self.number = 0
        self.last = OUTSIDE
        self.ahead = 0

    def sweep(self, layer: int, *, phase: bool) -> int:
        """The sweep that a run of ``layer`` belongs to."""
        if OUTSIDE in (layer, self.last) or phase:
            self.number, self.ahead = self.number + 1, 0
        elif layer != self.last:
            turn = 1 if layer > self.last else -1
            self.number += self.ahead not in (0, turn)
            self.ahead = turn
        self.last = layer
        return self.number


def _places(traced: Traced, runs: list[Run]) -> dict[int, Key]:
    """Where each storage of a layer's run was born. A workspace is nobody's: the first layer happens to bring it."""
    out: dict[int, Key] = {}
    count: dict[tuple[int, int], int] = {}
    for run in runs:
        if run.layer == OUTSIDE:
            continue
        for n in run.events:
            if n >= 0 and traced.born[n].kind != WORKSPACE:
                place = count.get((run.sweep, run.layer), 0)
                count[run.sweep, run.layer] = place + 1
                out[n] = (run.sweep, run.layer, place)
    return out


def _alike(traced: Traced, runs: list[Run], born_at: dict[int, Key], unit: Unit) -> None:
    """Raise unless both units do the same in every sweep."""
    told: dict[tuple[int, int], list[tuple[object, ...]]] = {}
    for run in runs:
        if run.layer != OUTSIDE:
            told.setdefault((run.sweep, run.layer), []).extend(_shape(traced, run, n, born_at) for n in run.events)
    sweeps = {sweep for sweep, _ in told}
    low = unit.first - unit.period
    for sweep in sweeps:
        for layer in range(low, unit.first):
            if told.get((sweep, layer)) != told.get((sweep, layer + unit.period)):
                raise Uneven(f"layers {layer} and {layer + unit.period} differ")
    for run in runs:
        if run.layer == OUTSIDE:
            for n in run.events:
                place = born_at.get(~n) if n < 0 else None
                if place is not None and low <= place[1] < unit.first + unit.period:
                    raise Uneven(f"layer {place[1]} is ended from outside")


def _shape(traced: Traced, run: Run, n: int, born_at: dict[int, Key]) -> tuple[object, ...]:
    """An event as any layer of its kind would tell it."""
    if n >= 0:
        b = traced.born[n]
        return (b.size, b.op, _renumbered(b.module, None), b.kind, b.shape, b.dtype, b.node)
    place = born_at.get(~n)
    if place is None:
        return ("ends", ~n)
    sweep, layer, nth = place
    return ("ends", sweep, layer - run.layer, nth)


def _renumbered(module: str, layer: int | None) -> str:
    """A module's name in another layer: its first number changes."""
    return NUMBER.sub("*" if layer is None else str(layer), module, count=1)


class _Writer:
    """Writes the longer trace."""

    def __init__(self, traced: Traced, unit: Unit, born_at: dict[int, Key]) -> None:
        self.traced = traced
        self.unit = unit
        self.born_at = born_at
        self.born: list[Born] = []
        self.order: list[int] = []
        self.marks: list[Mark] = []
        self.new: dict[Key | int, int] = {}
        self.count: dict[tuple[int, int], int] = {}

    def write(self, runs: list[Run], behind: list[Mark]) -> Traced:
        """All runs, with copies where the unit begins (or ends, in a sweep that goes down)."""
        for piece in _pieces(runs):
            first = self.unit.first
            if any(run.layer == first for run in piece):
                self.piece(piece)
            else:
                for run in piece:
                    self.run(run, self.moved(run.layer))
        self.marks += [m._replace(position=len(self.order)) for m in behind]
        self.check()
        return self.traced.but(born=self.born, order=self.order, marks=self.marks)

    def piece(self, piece: list[Run]) -> None:
        """One sweep over the layers, which passes the unit: copies have the numbers below it."""
        u = self.unit
        layers = [run.layer for run in piece]
        if u.first - 1 not in layers:
            raise Uneven(f"layer {u.first} is visited without the one before")
        rising = layers.index(u.first) > layers.index(u.first - 1)
        edge = layers.index(u.first) if rising else len(layers) - layers[::-1].index(u.first)
        inside = [run for run in piece if u.first <= run.layer < u.first + u.period]
        for run in piece[:edge]:
            self.run(run, self.moved(run.layer))
        for turn in range(u.times):
            back = (u.times - turn if rising else turn + 1) * u.period
            for run in inside:
                self.run(run, self.moved(run.layer) - back)
        for run in piece[edge:]:
            self.run(run, self.moved(run.layer))

    def moved(self, layer: int) -> int:
        """The number of a traced layer among all."""
        return layer + self.unit.added if layer >= self.unit.first else layer

    def run(self, run: Run, layer: int) -> None:
        """One run as that of ``layer``."""
        marks = dict[int, list[Mark]]()
        for place, mark in run.marks:
            marks.setdefault(place, []).append(mark)
        for place, n in enumerate(run.events):
            for m in marks.get(place, ()):
                value = layer if m.what == LAYER and m.value != OUTSIDE else m.value
                self.marks.append(Mark(len(self.order), m.what, value))
            self.event(run, n, layer)

    def event(self, run: Run, n: int, layer: int) -> None:
        """One event as that of ``layer``."""
        if n >= 0:
            b = self.traced.born[n]
            key: Key | int = n
            if n in self.born_at:
                nth = self.count.get((run.sweep, layer), 0)
                self.count[run.sweep, layer] = nth + 1
                key = (run.sweep, layer, nth)
                b = b._replace(layer=layer, module=_renumbered(b.module, layer))
            self.new[key] = len(self.born)
            self.order.append(len(self.born))
            self.born.append(b)
            return
        place = self.born_at.get(~n)
        if place is None:
            key = ~n
        else:
            sweep, of, nth = place
            near = run.layer != OUTSIDE and abs(of - run.layer) <= self.unit.period
            key = (sweep, layer + of - run.layer if near else self.moved(of), nth)
        found = self.new.pop(key, None)
        if found is None:
            raise Uneven("a storage would end twice")
        self.order.append(~found)

    def check(self) -> None:
        """Raise where copies are left over: as many of each are alive at the end as the traced units left."""
        left: dict[tuple[int, int], set[int]] = {}
        for key in self.new:
            if isinstance(key, tuple):
                left.setdefault((key[0], key[1]), set()).add(key[2])
        u = self.unit
        for (sweep, layer), places in left.items():
            if u.first <= layer < u.first + u.added:
                like = self.moved(u.first + (layer - u.first) % u.period)
                if left.get((sweep, like)) != places:
                    raise Uneven(f"layer {layer} would leave something behind")


def _pieces(runs: list[Run]) -> list[list[Run]]:
    """Runs of one sweep together."""
    out: list[list[Run]] = []
    for run in runs:
        if out and run.layer != OUTSIDE and out[-1][-1].layer != OUTSIDE and out[-1][-1].sweep == run.sweep:
            out[-1].append(run)
        else:
            out.append([run])
    return out
