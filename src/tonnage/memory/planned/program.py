"""A program's steps in their order, and how long the tensors live that they leave."""

from __future__ import annotations

from tonnage.memory.planned.greedy import Life


class Tensor:
    """A tensor whose death moves on as steps read it."""

    __slots__ = ("born", "bytes", "dies")

    def __init__(self, size: int, at: int) -> None:
        self.bytes, self.born, self.dies = size, at, at


class Program:
    """Steps in their order; each reads tensors and leaves others."""

    def __init__(self, element: int) -> None:
        self.element = element
        self.at = 0
        self.made: list[Tensor] = []

    def step(self, reads: tuple[Tensor, ...], *elements: int, element: int | None = None) -> tuple[Tensor, ...]:
        """One step: what it reads lives up to it, what it leaves from it on."""
        self.at += 1
        for each in reads:
            each.dies = self.at
        out = tuple(Tensor(n * (element or self.element), self.at) for n in elements)
        self.made.extend(out)
        return out

    def lives(self) -> list[Life]:
        """What was made, in the order of its birth."""
        return [Life(each.bytes, each.born, each.dies) for each in self.made]
