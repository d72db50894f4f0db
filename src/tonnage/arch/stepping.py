"""The optimizer's steps within the backward pass: a parameter's gradient dies with its step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tonnage.arch.tape import Parameter, Storage, Tape


class Stepping:
    """What steps a parameter as its gradient is there.

    Args:
        takes: what the step for one parameter takes for a moment: groups of what it holds at once, and pairs of sizes
            where a tensor takes the gradient's place. [byte]
        late: as soon as the next gradient is there instead, whose hook makes the step.
        leaves: parameters, by name, that are never stepped: gradients of earlier passes are there, and stay.
    """

    def __init__(
        self,
        takes: Callable[[Parameter], Iterable[list[int] | tuple[int, int]]],
        *,
        late: bool,
        leaves: Callable[[str], bool] | None = None,
    ) -> None:
        self.takes = takes
        self.leaves = leaves
        self.late = late
        self.waiting: list[Any] = []

    def arrived(self, tape: Tape, due: list[Any]) -> None:
        """A parameter and its gradient, which is handed over."""
        if self.late:
            due, self.waiting = self.waiting, due
        self._step(tape, due)

    def settle(self, tape: Tape) -> None:
        """The step of what still waits for it."""
        due, self.waiting = self.waiting, []
        self._step(tape, due)

    def _step(self, tape: Tape, due: list[Any]) -> None:
        if not due:
            return
        grad = due.pop()
        for group in self.takes(due.pop()):
            if isinstance(group, tuple):
                grad = tape.new("in the gradient's place", (("X", group[1]),), "uint8")
                grad.storage.category = "gradients"
                continue
            step = [Storage(tape, "step of the optimizer", (("X", n),), "uint8", "optimizer_state") for n in group]
            tape.events += [~s.serial for s in step]
        del grad
