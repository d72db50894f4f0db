"""A part of a pass that is run again in the backward pass, on the same tape: ``torch.utils.checkpoint``.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/utils/checkpoint.py (``checkpoint`` without reentrance,
which stops where the last tensor is saved; ``CheckpointFunction``, which runs to its end)
"""

from __future__ import annotations

from collections.abc import Callable

from tonnage.arch.tape import Grads, Node, Value, needs_grad


def checkpointed(run: Callable[[Value], Value], x: Value, *, stops: bool = True) -> Value:
    """``checkpoint(run, x)``: keeps ``x`` alone, and runs again when the backward pass comes by.

    Args:
        run: what is run twice; gradients of what else it takes are its own steps'.
        x: what it is given.
        stops: the second run stops where nothing more is saved.
    """
    tape = x.tape
    if not tape.recording or not needs_grad(x):
        return run(x)
    tape.recording = False
    y = run(x)
    tape.recording = True
    kept = [x.detached()]

    def back(given: list[Value]) -> Grads:
        start, first = len(tape.events), len(tape.born)
        tape.cut = start
        leaf = Node((), lambda _: (), (), 1)
        given_again = Value(kept[0].storage, kept[0].axes, kept[0].dtype, leaf)
        kept.clear()
        floor = len(tape.nodes)
        z = run(given_again)
        tape.casts.clear()
        assert z.node is not None
        root = z.node, z.index
        del z
        if stops:
            # What would have been made behind that point never is.
            for s in tape.born[first:]:
                if s.position >= tape.cut and not s.owners:
                    s.nbytes = 0
        lowest = next(node for node in tape.nodes[floor:] if node.saved)
        lowest.saved = (*lowest.saved, given_again.detached())
        del lowest, given_again
        before, tape.rerun = tape.rerun, True
        tape.backward(root, given.pop(), floor)
        tape.rerun = before
        found, leaf.pending = leaf.pending, []
        return (found[0],)

    tape.record((y,), (x,), back, ())
    if y.node is not None:
        y.node.takes = True
    return y
