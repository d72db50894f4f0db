"""A tape that notes which operation reads what: the graph that AOTAutograd hands to its partitioner.

AOTAutograd traces autograd's own formulas, so that forward steps, backward steps and what these read of the forward
pass are those that the eager tape has anyway. Here they are written down as a graph instead of being left to reference
counts, since compiled code keeps, makes again and frees by the graph.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/_functorch/partitioners.py (get_default_op_list)

Leaves out: views, which are one with what they show; the single steps that an operation decomposes into, but for the
statistics of softmax; of what is worked out twice, all but casts and statistics of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal

from tonnage.arch.tape import Back, Node, Parameter, Source, Storage, Tape, Value

Kind = Literal["fused", "matrix", "kernel", "joined", "random"]
"""Of an operation: element by element or a reduction, so that it fuses and may be made again; a product of matrices; a
kernel that is called; a join, into which others fuse and which fuses into none; random numbers."""

NAMED: Final[dict[str, Kind]] = {
    "mm": "matrix",
    "addmm": "matrix",
    "baddbmm": "matrix",
    "cat": "joined",
    "dropout": "random",
}
"""Results by the operation that the tape is told of; every other name is a kernel's, softmax apart."""
APART: Final = ("matrix", "kernel")
"""What inductor calls as a kernel of its own."""
WEIGHTS: Final = "weight gradient"
"""What a product's step calls its weight's gradient."""
STATISTICS: Final = ("softmax",)
"""What is decomposed into the most and the sum of each row, and the rest element by element."""


class Flow:
    """One operation of the graph.

    Args:
        kind: how it runs.
        inputs: what it reads: of a backward step the gradients.
        outputs: what it makes.
        reads: what a backward step reads of the forward pass.
        scratch: what its kernel takes for its own run. [byte]
        backward: which pass it belongs to.
    """

    __slots__ = ("backward", "inputs", "kind", "outputs", "reads", "scratch")

    def __init__(
        self,
        kind: Kind,
        inputs: list[Storage],
        outputs: list[Storage],
        *,
        reads: list[Storage] | None = None,
        scratch: int = 0,
        backward: bool = False,
    ) -> None:
        self.kind: Kind = kind
        self.inputs = inputs
        self.outputs = outputs
        self.reads = reads or []
        self.scratch = scratch
        self.backward = backward


class CompiledTape(Tape):
    """``flows`` are the operations in the order in which they are traced."""

    joins_nothing = False

    def __init__(self, **given: object) -> None:
        super().__init__(**given)  # type: ignore[arg-type]
        self.flows: list[Flow] = []
        # Operations of which a checkpoint keeps the results, of matrix products without bias every other one.
        self.keeps: frozenset[str] = frozenset()
        self.tagged: set[Storage] = set()
        self._products = 0
        # Off where a stretch is not compiled: then it is a tape as any other.
        self.tracing = False
        self._named: dict[int, str] = {}
        self._made_by: dict[Node, Kind] = {}
        self._since = 0
        self._at = 0
        # What is worked out twice is traced once.
        self._first: dict[tuple[object, ...], Storage] = {}
        self._same: dict[Storage, Storage] = {}

    def trace(self, on: bool) -> None:
        """A stretch begins that is compiled, or one that is not."""
        self.tracing = on
        self.flows.clear()
        self.tagged.clear()
        self._products = 0
        self._since = len(self.born)
        self._at = len(self.events)

    def results(self, op: str, make: Callable[[], tuple[Value, ...]]) -> tuple[Value, ...]:
        """As a tape's, and what made them is noted."""
        made = super().results(op, make)
        if not self.tracing:
            return made
        self._named.update((v.storage.serial, op) for v in made)
        if op == "mm":
            self._products += 1
        if op in self.keeps and (op != "mm" or self._products % 2):
            self.tagged.update(v.storage for v in made)
        return made

    def record(
        self,
        outputs: tuple[Value, ...],
        inputs: tuple[Source, ...],
        back: Back,
        saved: tuple[Value, ...],
        *,
        custom: bool = False,
        weights_first: bool = False,
        flat: bool = False,
        keeps_weight: bool = False,
    ) -> None:
        """As a tape's, whether a gradient is wanted or not."""
        if not self.tracing:
            super().record(
                outputs, inputs, back, saved, custom=custom, weights_first=weights_first, flat=flat,
                keeps_weight=keeps_weight,
            )  # fmt: skip
            return
        given = self._different(i.storage for i in inputs if isinstance(i, Value))
        made = [s for s in self._different(v.storage for v in outputs) if s not in given]
        beside = [s for s in self._different(v.storage for v in saved) if s.serial >= self._since]
        beside = [s for s in beside if s not in given and s not in made]
        kind = self._kind(made, custom=custom)
        if made:
            own = self._passing(self._at, self._since) if kind in APART else 0
            self._note(kind, given, made, beside, own)
        before = len(self.nodes)
        super().record(
            outputs, inputs, back, saved, custom=custom, weights_first=weights_first, flat=flat,
            keeps_weight=keeps_weight,
        )  # fmt: skip
        if len(self.nodes) > before:
            self._made_by[self.nodes[-1]] = kind
        self._since = len(self.born)
        self._at = len(self.events)

    def _passing(self, at: int, since: int) -> int:
        """The most that what was made from here on, and is gone, took at the same time. [byte]"""
        gone = {~event for event in self.events[at:] if event < 0}
        level = top = 0
        for event in self.events[at:]:
            serial = event if event >= 0 else ~event
            if serial >= since and serial in gone:
                level += self.born[serial].nbytes * (1 if event >= 0 else -1)
                top = max(top, level)
        return top

    def _kind(self, made: list[Storage], *, custom: bool) -> Kind:
        names = {self._named[s.serial] for s in made if s.serial in self._named}
        if any(s.serial in self.products for s in made):
            return "matrix"
        if names and not names & {*STATISTICS, "dropout"}:
            return NAMED.get(names.pop(), "kernel")
        return "kernel" if custom else "fused"

    def _note(self, kind: Kind, given: list[Storage], made: list[Storage], beside: list[Storage], scratch: int) -> None:
        """One operation, and before it those of its parts that it decomposes into."""
        drawn = [s for s in beside if self._named.get(s.serial) == "dropout"]
        if drawn:
            self.flows.append(Flow("random", [], drawn))
        rows = [s for s in beside if s not in drawn]
        if made[0].serial in self._named and self._named[made[0].serial] in STATISTICS:
            rows += [self.new(what, made[0].axes[:-1], "fp32").storage for what in ("most of rows", "sums of rows")]
        if kind != "fused":
            self.flows.append(Flow(kind, given, [*made, *rows], scratch=scratch))
            return
        casts = len(given) == 1 and not beside and made[0].label.startswith("cast to ")
        fresh = [s for s in rows if given and self._anew(s, given[0])]
        if fresh:
            self.flows.append(Flow("fused", given, fresh))
        if not casts or self._anew(made[0], given[0]):
            reads = [*given, *drawn, *(self._same.get(s, s) for s in rows)]
            self.flows.append(Flow("fused", reads, made))

    def _anew(self, s: Storage, of: Storage) -> bool:
        """Whether a tensor is worked out for the first time: a cast, or a statistic of rows."""
        first = self._first.setdefault((of, s.label, s.axes, s.dtype), s)
        if first is not s:
            self._same[s] = first
        return first is s

    def _different(self, storages: Iterable[Storage]) -> list[Storage]:
        """Each storage once, but for those that take nothing."""
        return [s for s in dict.fromkeys(self._same.get(s, s) for s in storages) if s.nbytes]

    def unwind(self, floor: int) -> None:
        """The backward pass as a graph: nothing is added in place, and who reads what is noted."""
        if not self.tracing:
            super().unwind(floor)
            return
        while len(self.nodes) > floor:
            node = self.nodes.pop()
            pending, node.pending = node.pending, []
            kind = self._made_by.pop(node, "fused")
            if all(g is None for g in pending):
                continue
            since, at = len(self.born), len(self.events)
            self.category = node.category
            inputs = self._different(g.storage for g in pending if g is not None)
            reads = self._different(v.storage for v in node.saved)
            given = list(pending)
            made = list(node.back(given) if node.takes else node.back(*given))
            grads = [g() if callable(g) else g for g in made]
            outputs = [s for s in self._different(g.storage for g in grads if g is not None) if s.serial >= since]
            named = [self._named[s.serial] for s in outputs if s.serial in self._named]
            if any(s.serial in self.products for s in outputs):
                kind = "matrix"
            elif named:
                kind = NAMED.get(named[0], "kernel")
            scratch = self._passing(at, since) if kind in APART else 0
            learned = [s for s in outputs if s.label == WEIGHTS]
            if learned and len(learned) < len(outputs) and kind == "matrix":
                # A product of its own, behind which what it reads of the forward pass is let go of.
                self.flows.append(Flow(kind, inputs, learned, reads=reads, backward=True, scratch=scratch))
                outputs, reads = [s for s in outputs if s not in learned], []
            if outputs:
                self.flows.append(Flow(kind, inputs, outputs, reads=reads, backward=True, scratch=scratch))
            for target, grad in zip(node.inputs, grads, strict=False):
                if target is None or grad is None:
                    continue
                if isinstance(target, Parameter):
                    self._given(target, grad)
                else:
                    below, index = target
                    below.pending[index] = self._added(below.pending[index], grad)
            node.saved = ()
            node.back = _gone

    def _given(self, parameter: Parameter, grad: Value) -> None:
        if not parameter.trained:
            return
        self.reached.add(parameter.name)
        total = self._added(self.gradients.pop(parameter.name, None), grad)
        total.storage.category = "gradients"
        total.storage.label = f"{parameter.name}.grad"
        self.gradients[parameter.name] = total

    def _added(self, first: Value | None, second: Value) -> Value:
        if first is None:
            return second
        total = self.new("sum of gradients", first.axes, first.dtype)
        parts = self._different((first.storage, second.storage))
        self.flows.append(Flow("fused", parts, [total.storage], backward=True))
        return total


def _gone(*_: Value) -> tuple[Value, ...]:
    raise AssertionError("a step of the backward pass runs once")
