"""A part of a pass that is run again in the backward pass, on the same tape: ``torch.utils.checkpoint``.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/utils/checkpoint.py (``checkpoint`` without reentrance,
which stops where the last tensor is saved)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tonnage.arch.tape import Grads, Node, Value, needs_grad

if TYPE_CHECKING:
    from tonnage.arch.forward import Forward
    from tonnage.arch.model import Layer


class Keeper(Protocol):
    """What a checkpoint keeps of the operations that it runs again."""

    def results(self, op: str, make: Callable[[], tuple[Value, ...]], *, again: bool) -> tuple[Value, ...]:
        """What an operation makes: anew, or what was kept of it."""
        ...


class Block(Protocol):
    """What a layer checkpoints."""

    def forward(self, f: Forward, x: Value) -> Value:
        """What is run twice."""
        ...


def checkpointed(run: Callable[..., Value], *xs: Value) -> Value:
    """``checkpoint(run, *xs)``: keeps ``xs`` alone, and runs again when the backward pass comes by.

    Gradients of what else ``run`` takes are its own steps'.
    """
    return several(lambda *given: (run(*given),), xs)[0]


def several(
    run: Callable[..., tuple[Value, ...]],
    xs: tuple[Value, ...],
    beside: tuple[Value, ...] = (),
    trained: tuple[bool, ...] = (True,),
    *,
    within: bool = False,
) -> tuple[Value, ...]:
    """The same of what makes several tensors.

    Args:
        run: what is run twice, the second time not beyond the last tensor that is saved.
        xs: what it is given, and kept.
        beside: more of that, to which it hands gradients as it makes them.
        trained: which of the tensors that it makes need a gradient.
        within: something inside needs one though none of ``xs`` does.
    """
    tape = xs[0].tape
    flows = [needs_grad(x) for x in xs]
    if not tape.recording or not (within or any(flows)):
        return run(*xs, *beside)
    tape.recording = False
    ys = run(*xs, *beside)
    tape.recording = True
    kept = [x.detached() for x in xs]
    also = list(beside)

    def back(given: list[Value | None]) -> Grads:
        tape.cut = start = len(tape.events)
        first = len(tape.born)
        leaves = [Node((), lambda _: (), (), 1) if flow else None for flow in flows]
        again = [Value(x.storage, x.axes, x.dtype, leaf) for x, leaf in zip(kept, leaves, strict=True)]
        kept.clear()
        floor = len(tape.nodes)
        before, tape.rerun = tape.rerun, True
        ys = run(*again, *also)
        tape.casts.clear()
        tape.second.clear()
        roots = [(y.node, y.index) for y, flow in zip(ys, trained, strict=True) if flow]
        del ys
        # What would have been made behind the point where the last tensor is saved never is.
        for s in tape.born[first:]:
            if s.position >= tape.cut and not s.owners:
                s.nbytes = 0
        # What it was given is held until the last step has asked for what it saved.
        lowest = next(node for node in tape.nodes[floor:] if node.asks)
        lowest.called = tuple(x.detached() for x in (*again, *also))
        again.clear()
        also.clear()
        del lowest
        given.reverse()
        for node, index in roots:
            if node is not None:
                node.pending[index] = given.pop()
        del node
        roots.clear()
        began, until, outer, tape.asked = len(tape.events), len(tape.born), tape.asked, None
        tape.unwind(floor)
        # It runs again where something that was saved is first asked for: sums and casts of gradients come before.
        asked = began if tape.asked is None else tape.asked
        ahead: list[int] = []
        own: list[int] = []
        for event in tape.events[began:asked]:
            # What the run itself made dies behind it.
            (own if event < 0 and first <= ~event < until else ahead).append(event)
        tape.events[start:asked] = ahead + tape.events[start:began] + own
        tape.rerun, tape.asked = before, outer
        found = tuple(leaf.pending[0] if leaf is not None else None for leaf in leaves)
        for leaf in leaves:
            if leaf is not None:
                leaf.pending = []
        return found

    made = tuple(y for y, flow in zip(ys, trained, strict=True) if flow)
    # The step is there though nothing that it was given has one.
    sources = xs if any(flows) else (Value(xs[0].storage, xs[0].axes, xs[0].dtype, Node((), lambda _: (), (), 1)),)
    tape.record(made, sources, back, ())
    if made[0].node is not None:
        made[0].node.takes = True
    return ys


def module(block: Block, f: Forward, x: Value) -> Value:
    """A module of a layer under a checkpoint, which holds all that it is called with."""
    held: list[Value] = []

    def run(x: Value) -> Value:
        names, f.weights, f.local, f.held = (f.weights, f.local, f.held), [], [], []
        before = set(f.taken)
        f.taken.clear()
        y = block.forward(f, x)
        f.weights, f.local, f.held = names
        if held:
            held.clear()
        else:
            held.extend(v.detached() for v in f.shared() if v.storage in f.taken)
        f.taken.update(before)
        return y

    return checkpointed(run, x)


def parts(layer: Layer) -> set[str]:
    """What of a layer can be computed again by itself: modules, parts of these, norms before them."""
    found = {getattr(s.block, "module", "") for s in layer.sublayers}
    # Other blocks have parts of their own: matrices.
    found |= {name for s in layer.sublayers for name in getattr(s.block, "parts", ()) if isinstance(name, str)}
    if not layer.parallel and not layer.wide and any(s.before is not None for s in layer.sublayers):
        found.add("layernorm")
    return found - {""}
