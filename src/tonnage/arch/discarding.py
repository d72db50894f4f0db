"""Modules whose output is let go of as soon as the next one has run, and made again before that one's backward step.

What runs next has saved the output; its memory is emptied all the same, and when the gradient of what came of it is
there, the module runs once more, with autograd on, and lends its result's memory to the emptied tensor. Then its own
backward step needs no third run. Result and gradient are held until that step is through.

Reference: https://github.com/NVIDIA/Megatron-LM/blob/core_v0.19.0/megatron/core/tensor_parallel/random.py
(``CheckpointWithoutOutput``)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tonnage.arch.tape import Grads, Node, Value, needs_grad

Run = Callable[..., tuple[Value, ...]]
Discard = Callable[[Value], None]


def without_output(run: Run, *xs: Value, beside: Iterable[Value] = ()) -> tuple[tuple[Value, ...], Discard]:
    """``CheckpointWithoutOutput().checkpoint(run, *xs)``.

    Args:
        run: what is run twice; its results are no views of what it is given.
        xs: what it is given, and kept.
        beside: what it is given besides that needs no gradient.

    Returns:
        The results, and what discards them: called with the tensor before whose backward step they are made again.
    """
    tape = xs[0].tape
    if not tape.recording or not any(needs_grad(x) for x in xs):
        return run(*xs), lambda hook: None
    tape.recording = False
    ys = run(*xs)
    tape.recording = True
    kept, flows = [x.detached() for x in xs], [needs_grad(x) for x in xs]
    emptied = [y.storage for y in ys]
    leaves: list[Node | None] = []
    steps: list[Node] = []
    made: list[Value] = []
    given: list[Value] = []

    def again() -> None:
        floor = len(tape.nodes)
        leaves.extend(Node((), lambda _: (), (), 1) if flow else None for flow in flows)
        given.extend(Value(x.storage, x.axes, x.dtype, leaf) for x, leaf in zip(kept, leaves, strict=True))
        made.extend(run(*given))
        # They wait until the backward pass comes to the module.
        steps.extend(tape.nodes[floor:])
        del tape.nodes[floor:]
        for storage, y in zip(emptied, made, strict=True):
            storage.borrow(y)

    def back(grads: list[Value | None]) -> Grads:
        floor = len(tape.nodes)
        tape.nodes.extend(steps)
        steps.clear()
        for y, g in zip(made, grads, strict=True):
            if y.node is not None and g is not None:
                y.node.pending[y.index] = g
            del g
        before, tape.rerun = tape.rerun, False
        tape.unwind(floor)
        tape.rerun = before
        made.clear()
        given.clear()
        grads.clear()
        found = tuple(leaf.pending[0] if leaf is not None else None for leaf in leaves)
        for leaf in leaves:
            if leaf is not None:
                leaf.pending = []
        return found

    tape.record(ys, xs, back, (*xs, *beside), custom=True)
    for y in ys:
        assert y.node is not None
        y.node.takes = True

    def discard(hook: Value) -> None:
        for storage in emptied:
            storage.empty()
        if hook.node is not None:
            hook.node.before = again

    return ys, discard
