"""A pass on one tape from the embedding to the embedding's gradient, in named parts.

Where the stretches of a model do not lie one behind the other as those of ``memory/passes.py`` do, every layer runs
where it stands.
"""

from __future__ import annotations

from collections.abc import Iterable

from tonnage.arch.model import Model
from tonnage.arch.tape import Storage, Tape, Value
from tonnage.memory.accounts import Account, Span, blocks, handed
from tonnage.timeline import Level


class Part:
    """A stretch of the tape, and the number of steps of the backward pass that were there before it."""

    __slots__ = ("floor", "name", "start", "stop")

    def __init__(self, name: str, start: int, floor: int) -> None:
        self.name = name
        self.start = start
        self.stop = start
        self.floor = floor


class OneTape:
    """The pass, as ``parts`` of its tape in order; those from ``turn`` on lie behind the loss."""

    tape: Tape
    model: Model
    inputs: list[Storage]
    first: int
    turn: int
    copied: int
    kernels: set[str]

    def begin(self, model: Model, tape: Tape, inputs: list[Storage]) -> None:
        """What is counted begins here."""
        self.model, self.tape, self.inputs = model, tape, inputs
        self.first = len(tape.born)
        self.parts: list[Part] = []
        self.graph: list[Storage] = []
        self.outputs: list[Storage] = []
        self.told: list[Storage] = []
        self.layers: list[Account] = []
        self.lingering = Level()
        tape.category = "activations"

    def part(self, name: str) -> None:
        """Another part begins."""
        position = len(self.tape.events)
        if self.parts:
            self.parts[-1].stop = position
        self.parts.append(Part(name, position, len(self.tape.nodes)))

    def run_back(self, loss: Value, logits: list[Value], *, keep_logits: bool) -> None:
        """All of the backward pass; the caller holds ``logits``, and hands them over where it does not."""
        tape = self.tape
        self.turn = len(self.parts)
        self.copied = handed(tape)
        if not keep_logits:
            logits.clear()
        self.outputs = [v.storage for v in logits]
        tape.casts.clear()
        forward = list(self.parts)
        tape.category = "loss"
        self.part("loss backward")
        seed = tape.new("gradient of loss", loss.axes, loss.dtype)
        tape.category = "activations"
        assert loss.node is not None
        root = loss.node, loss.index
        # The loop holds the loss without what it saved.
        loss.node = None
        tape.backward(root, seed.view(seed.axes), forward[-1].floor)
        del root
        self.unwind(forward[:-1])
        if tape.stepping is not None:
            tape.stepping.settle(tape)
        del seed
        if not self.outputs:
            # The loop's loss is without its graph.
            tape.leaves.clear()
            tape.attributes.clear()
        self.parts[-1].stop = len(tape.events)
        self.graph = [v.storage for leaf in tape.leaves for v in (*leaf.saved, *leaf.pending) if v is not None]
        self.graph += [v.storage for v in tape.attributes]
        tape.leaves.clear()
        tape.attributes.clear()
        self.grown = [v.storage for v in tape.gradients.values()]
        logits.clear()
        # What a step of one pass over one stack is asked for as well.
        self.tail = self.stem = Account()
        self.tail.output = loss.storage
        self.context = [v.storage for v in tape.context]
        self.reached = self._reached()
        self.held = loss

    def unwind(self, forward: list[Part]) -> None:
        """Back through what stood before the loss."""
        for part in reversed(forward):
            self.part(part.name.replace("forward", "backward") if "forward" in part.name else f"{part.name}, backward")
            self.tape.unwind(part.floor)

    def _reached(self) -> dict[int | None, set[str]]:
        """Names of the parameters that a gradient arrives at: by layer below it, of the rest under None."""
        found: dict[int | None, set[str]] = {None: set(self.tape.reached)}
        for stack in self.model.stacks:
            for index, layer in enumerate(stack.layers):
                prefix = f"{stack.path}.{index}."
                names = {name.removeprefix(prefix) for name in self.tape.reached if name.startswith(prefix)}
                found.setdefault(id(layer), set()).update(names)
        return found

    def spans(self, parts: Iterable[Part]) -> Iterable[tuple[str, Span]]:
        """Stretches with what is alive in them, from the pass's first storage on."""
        tape, first = self.tape, self.first
        requested = allocated = at = 0
        for part in parts:
            for event in tape.events[at : part.start]:
                s = tape.born[event if event >= 0 else ~event]
                if s.serial >= first:
                    sign = 1 if event >= 0 else -1
                    requested += sign * s.nbytes if s.category != "workspace" else 0
                    allocated += sign * blocks(s.nbytes)
            at = part.start
            yield part.name, Span(tape, part.start, part.stop, first, Level(requested, allocated))
