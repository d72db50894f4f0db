"""Layers that repeat: a stream written by hand, told from four layers and from all."""

from __future__ import annotations

import pytest

from tonnage.tracing.layers_alike import repeated
from tonnage.tracing.spread import Uneven, Unit, spread
from tonnage.tracing.stream import Born, Mark, Traced


class Written:
    """A forward and a backward pass over some layers, each of which keeps one tensor and hands one on."""

    def __init__(self, layers: int, *, odd: int | None = None) -> None:
        self.born: list[Born] = []
        self.order: list[int] = []
        self.marks: list[Mark] = []
        self.mark("phase", "load")
        self.new(64, "parameter", -1)
        for i in range(layers):
            self.new(512, "parameter", i)
        self.mark("phase", "step1.forward")
        stream, kept = self.new(100, "", -1), []
        for i in range(layers):
            self.mark("layer", i)
            kept.append(self.new(1000 + (i == odd), "", i))
            out = self.new(100, "", i)
            self.end(stream)
            stream = out
        self.mark("layer", -1)
        self.mark("phase", "step1.backward")
        gradient = self.new(100, "", -1)
        for i in reversed(range(layers)):
            self.mark("layer", i)
            self.end(kept[i])
            below = self.new(100, "", i)
            self.end(gradient)
            gradient = below
        self.mark("layer", -1)
        self.end(gradient)
        self.end(stream)
        self.mark("phase", "end")

    def mark(self, what: str, value: str | int) -> None:
        self.marks.append(Mark(len(self.order), what, value))

    def new(self, size: int, kind: str, layer: int) -> int:
        self.born.append(Born(size, "op", f"m.{layer}.x" if layer >= 0 else "m", kind, layer, (size,), "uint8", ""))
        self.order.append(len(self.born) - 1)
        return len(self.born) - 1

    def end(self, n: int) -> None:
        self.order.append(~n)

    def traced(self) -> Traced:
        return Traced(self.born, self.order, self.marks, {})


@pytest.mark.parametrize("layers", [4, 5, 9, 40])
def test_four_layers_tell_any_number(layers: int) -> None:
    told = spread(Written(4).traced(), Unit(first=2, period=1, times=layers - 4))
    whole = Written(layers).traced()
    assert told.born == whole.born
    assert told.order == whole.order
    assert told.marks == whole.marks


@pytest.mark.parametrize("odd", [1, 2])
def test_what_is_not_alike_is_not_repeated(odd: int) -> None:
    with pytest.raises(Uneven):
        spread(Written(4, odd=odd).traced(), Unit(first=2, period=1, times=3))


@pytest.mark.parametrize("odd", [0, 3])
def test_the_ends_may_differ(odd: int) -> None:
    told = spread(Written(4, odd=odd).traced(), Unit(first=2, period=1, times=3))
    assert told.order == Written(7, odd=odd and 6).traced().order
    assert [b.size for b in told.born] == [b.size for b in Written(7, odd=odd and 6).traced().born]


def test_which_layers_are_traced() -> None:
    assert repeated("aaaaaaaa") == ([0, 1, 2, 7], Unit_(2, 1, 4))
    assert repeated("daaaaaaa") == ([0, 1, 2, 3, 7], Unit_(3, 1, 3))
    kept, unit = repeated("sfsfsfsfsfsfsf") or ([], None)
    assert unit == Unit_(4, 2, 3)
    assert "".join("sfsfsfsfsfsfsf"[i] for i in kept) == "sfsfsfsf"
    assert repeated("abcdefgh") is None
    assert repeated("aaaa") is None


class Unit_:  # noqa: N801
    """A unit by its three numbers."""

    def __init__(self, first: int, period: int, times: int) -> None:
        self.numbers = (first, period, times)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unit) and (other.first, other.period, other.times) == self.numbers
