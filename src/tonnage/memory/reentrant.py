"""Checkpoints that run a backward pass of their own within the backward pass.

The layer runs again whole before anything else, and what called it names its input, its output and the gradient that
it was given until the layer is through. What it was called with beside its input is an attribute of its node, which is
there as long as the loss's graph.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/utils/checkpoint.py (``CheckpointFunction``), of which
unsloth_zoo 2026.10.9, gradient_checkpointing.py (``UnslothCheckpointFunction``), is a variant.
"""

from __future__ import annotations

from tonnage.arch.tape import Tape, Value
from tonnage.memory.accounts import Account, Run, Span, ahead, back, handed


def within(tape: Tape, run: Run, x: Value, waiting: list[Value], account: Account, first: int) -> Account:
    """The account of such a layer, whose first forward pass is on the tape.

    Args:
        tape: the model's.
        run: the layer's forward pass.
        x: its input.
        waiting: the gradient of its output.
        account: of the first forward pass.
        first: storages born before this serial do not count.
    """
    plain, entered, left = account.forward, account.entered, account.left
    leaf, floor, start, made = x.node, len(tape.nodes), len(tape.events), list[Value]()

    def kept(given: Value) -> Value:
        made.append(run(given))
        return made[0]

    root = ahead(tape, kept, x, account)
    tape.casts.clear()
    account.recompute = Span(tape, start, len(tape.events), first)
    if root is None:
        account.recompute = None
        return account
    account.flows = True
    account.saved = [*account.left_behind(), *(s for s in account.saved if s not in account.left_behind())]
    account.saved += [s for s in [account.output] if s not in account.saved]
    account.forward, account.entered, account.left = plain, entered, left
    account.keeps_input, account.keeps_output = True, False
    given = waiting[0].detached()
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
