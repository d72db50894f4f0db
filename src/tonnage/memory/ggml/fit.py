"""``--fit``: how llama.cpp shortens a context and keeps layers in host memory until the devices hold the rest.

The context is shortened only where none is asked for; then layers go back to front to the devices that hold them, and
of mixtures of experts first everything but the experts, then whole layers front to back, with a part of one more.
Every step asks for the buffers of a model and context that are made without data.

Reference: common/fit.cpp ``common_params_fit_impl`` of ggml-org/llama.cpp v0.5.0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tonnage.record import Record

LEAST: Final = 4096
"""Tokens below which the context is not shortened (``--fit-ctx``)."""

PARTS: Final = {
    "attention": r"ffn_(gate|up|gate_up|down).*",
    "up": r"ffn_(gate|gate_up|down).*",
    "gate": r"ffn_down.*",
    "experts": r"ffn_(up|down|gate_up|gate)_(ch|)exps",
}
"""Tensors of a layer that leave its device, by how much of it stays."""

EXPERTS: Final = r"blk\.\d+\." + PARTS["experts"]


class Layout(Record):
    """What is measured.

    Args:
        context: ``n_ctx``, over all sequences.
        offloaded: layers on devices, the output counting as one; None as asked.
        shares: layers of each device; empty for equal ones.
        overrides: expressions of tensors' names, each with its device (-1: host memory); None as asked.
    """

    context: int
    offloaded: int | None = None
    shares: tuple[float, ...] = ()
    overrides: tuple[tuple[str, int], ...] | None = None


class Used(Record):
    """Bytes on each device. [byte]"""

    total: tuple[int, ...]
    weights: tuple[int, ...]


Measure = Callable[[Layout], Used]


class Wanted(Record):
    """What is to be fitted.

    Args:
        layers: of the model.
        experts: whether it has any.
        free: bytes on each device. [byte]
        margins: to be left there. [byte]
        context: ``n_ctx``; None where it may be chosen.
        longest: tokens of a sequence that the model was trained for.
        sequences, streams: that the context holds, and caches side by side.
        least: tokens of each stream that are kept.
        fixed: why layers may not be moved; "" where they may.
    """

    layers: int
    experts: bool
    free: tuple[int, ...]
    margins: tuple[int, ...]
    context: int | None
    longest: int
    sequences: int
    streams: int
    least: int = LEAST
    fixed: str = ""


class Fitted(Record):
    """What was chosen.

    Args:
        layout: to start with.
        moved: whether layers or tensors were.
        failed: why it could not; "" where it could.
    """

    layout: Layout
    moved: bool = False
    failed: str = ""


class _Part(Record):
    """Layers of one device: ``partial`` of them without their experts, of the first of these what ``keeps`` says."""

    layers: int = 0
    partial: int = 0
    keeps: str = "experts"

    @property
    def whole(self) -> int:
        return self.layers - self.partial


def fitted(w: Wanted, measure: Measure) -> Fitted:
    """The context and the layers that fit, as llama.cpp finds them."""
    most, least = w.longest * w.sequences, w.least * w.streams
    context = most if w.context is None else w.context
    full = measure(Layout(context))
    rest = [free - used for free, used in zip(w.free, full.total, strict=True)]
    if all(r >= m for r, m in zip(rest, w.margins, strict=True)):
        return Fitted(Layout(context))
    if sum(rest) < sum(w.margins) and w.context is None and most > least:
        context, enough = _shortened(w, full, most, least, measure)
        if enough and len(w.free) == 1:
            return Fitted(Layout(context))
    if w.fixed:
        return Fitted(Layout(context), failed=w.fixed)
    return Fitted(_Filling(w, measure, context).filled(), moved=True)


def _shortened(w: Wanted, full: Used, most: int, least: int, measure: Measure) -> tuple[int, bool]:
    """The context between the least and the most at which everything should fit, taking memory to grow evenly."""
    target = sum(w.free) - sum(w.margins)
    if len(w.free) > 1:
        # Half a layer of each device is expected to be left over; of experts a sixth.
        target -= (len(w.free) + 1) * (sum(full.weights) // w.layers) // (6 if w.experts else 2)
    used, lowest = sum(full.total), sum(measure(Layout(least)).total)
    if target <= lowest:
        return least, False
    context = least + (most - least) * (target - lowest) // (used - lowest)
    return max(context - context % (256 * w.streams), least), True


class _Filling:
    """Layers by device, tried until the devices are full."""

    def __init__(self, w: Wanted, measure: Measure, context: int) -> None:
        self.w, self.context, self.ask = w, context, measure
        self.last = len(w.free) - 1
        self.targets = [free - margin for free, margin in zip(w.free, w.margins, strict=True)]
        self.spill = [-1] * len(w.free)
        """Where what leaves a device's first partial layer goes; -1 is host memory."""
        self.parts = [_Part()] * len(w.free)
        self.used: list[int] = []
        self.start = 0
        """The first device that holds partial layers."""

    def filled(self) -> Layout:
        """Where every layer goes."""
        room = 0
        if self.w.experts:
            apart = self.ask(Layout(self.context, overrides=((EXPERTS, -1),)))
            room = sum(self.targets) - sum(apart.total)
        self.used = self._measured(self.parts)
        for at in range(self.last, -1, -1):
            self._back_to_front(at)
        if room > 0:
            self.start = next((i for i in range(self.last, -1, -1) if not self.parts[i].layers), -1) + 1
            at = 0
            while at <= self.start <= self.last:
                self._front_to_back(at)
                self._one_more(at)
                at += 1
        return self._layout(self.parts, self.spill)

    def _layout(self, parts: Sequence[_Part], spill: Sequence[int]) -> Layout:
        total = sum(p.layers for p in parts)
        first = self.w.layers + 1 - total
        overrides: list[tuple[str, int]] = []
        for part, to in zip(parts, spill, strict=True):
            first += part.whole
            for i in range(part.partial):
                keeps = part.keeps if i == 0 else "experts"
                overrides.append((rf"blk\.{first + i}\.{PARTS[keeps]}", to if i == 0 else -1))
            first += part.partial
        shares = tuple(float(p.layers) for p in parts) if self.last and total else ()
        return Layout(self.context, total, shares, tuple(overrides))

    def _measured(self, parts: Sequence[_Part], spill: Sequence[int] | None = None) -> list[int]:
        return list(self.ask(self._layout(parts, self.spill if spill is None else spill)).total)

    def _step(self, at: int, high: Sequence[int], delta: int) -> int:
        """Layers to try between what fits and what does not, by the method of false position."""
        part, whole = delta * (self.targets[at] - self.used[at]), high[at] - self.used[at]
        step = abs(part) // whole
        # A negative number is a very large one there.
        return min(max(step, 1), delta - 1) if part >= 0 or not step else delta - 1

    def _back_to_front(self, at: int) -> None:
        """Give a device as many of the layers that are left as it holds, without their experts."""
        left = self.w.layers + 1 - sum(p.layers for p in self.parts[at + 1 :])
        # The output is the last layer, and always whole.
        partial = (left if at < self.last else left - 1) if self.w.experts else 0
        if left <= 0:
            return
        tried = self._with(at, _Part(left, partial))
        high = self._measured(tried)
        if high[at] <= self.targets[at]:
            self.parts, self.used = tried, high
            return
        delta = left - self.parts[at].layers
        while delta > 1:
            step = self._step(at, high, delta)
            old = self.parts[at]
            more = (step - 1 if at == self.last and not old.partial else step) if self.w.experts else 0
            test = self._with(at, _Part(old.layers + step, old.partial + more))
            used = self._measured(test)
            if used[at] <= self.targets[at]:
                self.parts, self.used = test, used
            else:
                tried, high = test, used
            delta = tried[at].layers - self.parts[at].layers

    def _with(self, at: int, part: _Part) -> list[_Part]:
        return [part if i == at else p for i, p in enumerate(self.parts)]

    def _front_to_back(self, at: int) -> None:
        """Take partial layers from the back and make them whole ones of a device in front, as many as it holds."""
        tried, start = list(self.parts), self.last
        for i in range(self.start, self.last + 1):
            moved = tried[i].layers - (0 if i < self.last else 1)
            tried[at] = tried[at].but(layers=tried[at].layers + moved)
            tried[i] = tried[i].but(layers=tried[i].layers - moved, partial=0)
        high = self._measured(tried)
        if high[at] <= self.targets[at]:
            self.parts, self.used, self.start = tried, high, start
            return
        delta = tried[at].whole - self.parts[at].whole
        while delta > 1:
            test, then = self._converted(at, self._step(at, high, delta))
            used = self._measured(test)
            if used[at] <= self.targets[at]:
                self.parts, self.used, self.start = test, used, then
            else:
                tried, high = test, used
            delta = tried[at].whole - self.parts[at].whole

    def _converted(self, at: int, step: int) -> tuple[list[_Part], int]:
        """``step`` partial layers made whole ones of a device, and the first device that has partial ones then."""
        test, start, done = list(self.parts), self.start, 0
        while start <= self.last:
            n = min(step - done, test[start].partial)
            test[start] = test[start].but(layers=test[start].layers - n, partial=test[start].partial - n)
            test[at] = test[at].but(layers=test[at].layers + n)
            done += n
            if test[start].partial:
                break
            start += 1
        return test, start

    def _one_more(self, at: int) -> None:
        """Part of one more layer, where what does not stay fits elsewhere."""
        if self.start > self.last or self.parts[self.start].layers <= (0 if at < self.last else 1):
            return
        test, start = list(self.parts), self.start
        test[start] = test[start].but(layers=test[start].layers - 1, partial=test[start].partial - 1)
        test[at] = test[at].but(layers=test[at].layers + 1, partial=test[at].partial + 1)
        if not test[start].partial:
            start += 1
        spill = [at + 1 if i == at < self.last else to for i, to in enumerate(self.spill)]
        fits = self._taken(at, test, "up", spill, start)
        self._taken(at, test, "gate" if fits else "attention", spill, start)

    def _taken(self, at: int, test: list[_Part], keeps: str, spill: list[int], start: int) -> bool:
        """Take a layout over where it fits the device and the next one."""
        tried = [p.but(keeps=keeps) if i == at else p for i, p in enumerate(test)]
        used = self._measured(tried, spill)
        if used[at] >= self.targets[at] or (at < self.last and used[at + 1] >= self.targets[at + 1]):
            return False
        self.parts, self.used, self.spill, self.start = tried, used, spill, start
        return True
