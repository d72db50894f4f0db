"""Checkpoints that run a backward pass of their own within the backward pass.

The layer runs again whole before anything else, and what called it names its input, its output and the gradient that
it was given until the layer is through. What it was called with beside its input is an attribute of its node, which is
there as long as the loss's graph.

What the layer hands back beside its output is an output of that node as well: where no gradient comes for it, the
engine makes zeros in its place before the layer runs again, and hands them to the steps that made it.

What the layer hands back beside its output is an output of that node as well: where no gradient comes for it, the
engine makes zeros in its place before the layer runs again, and hands them to the steps that made it.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/utils/checkpoint.py (``CheckpointFunction``), of which
unsloth_zoo 2026.10.9, gradient_checkpointing.py (``UnslothCheckpointFunction``), is a variant.
"""

from __future__ import annotations

from tonnage.arch.tape import Tape, Value
from tonnage.memory.accounts import Account, Run, Span, ahead, back, handed
from tonnage.tensors import Axes


class Nested:
    """A layer under such a checkpoint: its forward pass, and the backward pass that runs within the backward pass.

    Args:
        tape: the model's.
        run: the layer's forward pass.
    """

    def __init__(self, tape: Tape, run: Run) -> None:
        self.tape = tape
        self.run = run
        # Of what is handed back beside the output.
        self._beside: list[tuple[Axes, str]] = []

    def ahead(self, x: Value) -> Value:
        """The first forward pass, which keeps nothing of what it hands back."""
        y, beside = self._ran(x)
        self._beside = [(v.axes, v.dtype) for v in beside]
        return y

    def _ran(self, x: Value) -> tuple[Value, list[Value]]:
        beside = self.tape.returned = []
        y = self.run(x)
        self.tape.returned = None
        return y, beside

    def back(self, x: Value, waiting: list[Value], account: Account, first: int) -> Account:
        """The account of the layer, whose first forward pass is on the tape.

        Args:
            x: its input.
            waiting: the gradient of its output.
            account: of the first forward pass.
            first: storages born before this serial do not count.
        """
        tape = self.tape
        plain, entered, left = account.forward, account.entered, account.left
        leaf, floor, start, made = x.node, len(tape.nodes), len(tape.events), list[Value]()
        zeros = [tape.new("zeros for a gradient", axes, dtype) for axes, dtype in self._beside]

        def kept(given: Value) -> Value:
            y, beside = self._ran(given)
            made.extend([y, *beside])
            return y

        root = ahead(tape, kept, x, account)
        tape.casts.clear()
        account.recompute = Span(tape, start, len(tape.events), first)
        if root is None:
            account.recompute = None
            return account
        account.flows = True
        account.saved = [*account.left_behind(), *(s for s in account.saved if s not in account.left_behind())]
        account.saved += [s for s in [account.output, *(v.storage for v in zeros)] if s not in account.saved]
        account.forward, account.entered, account.left = plain, entered, left
        account.keeps_input, account.keeps_output = True, False
        given = waiting[0].detached()
        for value, zero in zip(made[1:], zeros, strict=True):
            if value.node is not None:
                value.node.pending[value.index] = zero.detached()
        back(tape, root, waiting, floor, first, account)
        if leaf is not None:
            account.handed = leaf.pending[0].storage if leaf.pending and leaf.pending[0] is not None else None
            leaf.pending = []
        tape.gradients.clear()
        made.clear()
        # The graph of the second run ends with the layer.
        account.copied = 0, handed(tape)
        tape.attributes.clear()
        del given
        return account
