"""Megatron-Core's cross entropy over a vocabulary that may be cut, on the one device of a group of one.

The softmax is made in fp32 in the place of the logits' own copy, is all that is kept, and becomes their gradient in the
same place. Batches hold labels and a mask of their own, as Megatron's data sets make them.

Leaves out: label smoothing; the number of tokens and the copy of the loss that the log is given.

Reference: https://github.com/NVIDIA/Megatron-LM/blob/core_v0.19.0/ megatron/core/tensor_parallel/cross_entropy.py
(``_VocabParallelCrossEntropy``), megatron/core/models/common/language_module/language_module.py
(``compute_language_model_loss``), pretrain_gpt.py (``loss_func``);
https://github.com/NVIDIA/TransformerEngine/blob/v2.18/transformer_engine/pytorch/triton/cross_entropy.py (before, its
kernels wrote the gradient over the logits)
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss
from tonnage.arch.tape import Grads, Tape, Value
from tonnage.tensors import Axes

ONE: Axes = (("X", 1),)


class VocabParallel(Loss):
    """``vocab_parallel_cross_entropy`` of all logits, and the sum of the losses that the mask counts."""

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """Labels, which are moved by one already, and the mask of the loss in fp32."""
        return [tape.new("labels", ids, "int64"), tape.new("loss mask", ids, "fp32")]

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The loss of the head's logits of ``x`` (axes ``B T D``)."""
        tape, rows = f.tape, labels.axes
        held = [x]
        del x
        # The caller names the logits until the loss of every token is there.
        logits = head.forward(f, held.pop())
        tape.category = "loss"
        # Megatron's logits lie tokens first, and so must labels, and losses come back so.
        turned = tape.new("labels, tokens first", rows, "int64") if rows[0][1] > 1 else None
        losses = self.each(logits, rows)
        del logits, turned
        if rows[0][1] > 1:
            losses = ops.copy(losses, label="losses, sequences first")
        return _counted(losses)

    def each(self, logits: Value, rows: Axes) -> Value:
        """A loss for every token: the steps of ``_VocabParallelCrossEntropy.forward``."""
        tape, axes, before = logits.tape, logits.axes, logits.dtype
        # ``.float()``: where logits are fp32 their own storage is written over.
        wide = logits.detached() if before == "fp32" else tape.new("softmax", axes, "fp32")
        highest = tape.new("highest logits", rows, "fp32")
        tape.new("places of the highest", rows, "int64")
        mask = _outside(tape, rows)
        copy = tape.new("labels copied", rows, "int64")
        masked = tape.new("labels of this part", rows, "int64")
        del copy
        order = tape.new("order of rows", rows, "int64")
        taken = tape.new("logits of labels", rows, "fp32")
        taken = tape.new("logits of labels, copied", rows, "fp32")
        total = tape.new("sums of exponentials", rows, "fp32")
        del order
        logarithm = tape.new("logarithms", rows, "fp32")
        losses = tape.new("losses", rows, "fp32")
        del logarithm, highest, taken, total
        kept = wide.detached()

        def back(given: list[Value]) -> Grads:
            order = tape.new("order of rows", rows, "int64")
            cast = tape.new("mask in fp32", rows, "fp32")
            update = tape.new("update of labels", rows, "fp32")
            del cast
            at = tape.new("probabilities of labels", rows, "fp32")
            del at, order, update
            # It is gone when the engine casts what the function returns.
            given.clear()
            return (ops.fitted(kept.detached(), axes, before),)

        tape.record((losses,), (logits,), back, (wide, mask, masked), custom=True)
        if losses.node is not None:
            losses.node.takes = True
        return losses


class ByTransformerEngine(VocabParallel):
    """The same with Transformer Engine's kernels, which write the gradient in fp32 beside the logits."""

    def each(self, logits: Value, rows: Axes) -> Value:
        """A loss for every token: the steps of ``CrossEntropyFunction.forward``."""
        tape, axes, before = logits.tape, logits.axes, logits.dtype
        losses = tape.new("losses", rows, "fp32")
        parts = tape.new("highest, sum and label's logit", (*rows, ("X", 3)), "fp32")
        count = tape.new("labels that count", ONE, "int64")
        wide = tape.new("gradient of logits in fp32", axes, "fp32")
        count = tape.new("labels that count, at least one", ONE, "int64")
        del parts, count
        kept = wide.detached()

        def back(given: list[Value]) -> Grads:
            tape.new("one", (), "fp32")
            # Sequences first, it lies otherwise than the logits.
            if rows[0][1] > 1:
                tape.new("gradient of losses, tokens first", rows, "fp32")
            given.clear()
            return (ops.fitted(kept.detached(), axes, before),)

        tape.record((losses,), (logits,), back, (wide,), custom=True)
        if losses.node is not None:
            losses.node.takes = True
        return losses


def _outside(tape: Tape, rows: Axes) -> Value:
    """Which labels lie outside of this part: below its first, or from its end on."""
    low = tape.new("labels below", rows, "bool")
    high = tape.new("labels above", rows, "bool")
    mask = tape.new("labels outside", rows, "bool")
    del low, high
    return mask


def _counted(losses: Value) -> Value:
    """``torch.sum(losses * loss_mask)`` divided by the number of tokens: of the mask, which the batch holds."""
    tape, rows = losses.tape, losses.axes
    weighed = tape.new("counted losses", rows, "fp32")
    tape.record((weighed,), (losses,), lambda g: (tape.new("gradient of losses", rows, "fp32"),), ())
    total = tape.new("sum of losses", ONE, "fp32")
    tape.record((total,), (weighed,), lambda g: (g.view(rows),), ())
    del weighed
    count = tape.new("number of tokens", ONE, "int32")
    loss = tape.new("loss", ONE, "fp32")
    tape.record((loss,), (total,), lambda g: (tape.new("gradient of sum", ONE, "fp32"),), (count,))
    return loss
