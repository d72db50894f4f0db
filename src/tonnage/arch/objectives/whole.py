"""Losses of preferences over all logits in fp32, as LLaMA-Factory's trainers make them: DPO, KTO, ORPO, SimPO.

The policy's logits keep their names until the reference has run; its log-softmax is kept for the backward pass. Where
the reference runs, what it makes comes on top of both.

Reference: https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/src/llamafactory/train/dpo/trainer.py
(``concatenated_forward``, ``get_batch_loss_metrics``) and train/trainer_utils.py (``get_batch_logps``); accelerate
hands logits out in fp32 under autocast. The copy in log_softmax: https://github.com/pytorch/pytorch/blob/v2.13.0/
aten/src/ATen/native/cuda/SoftMax.cu (``host_softmax``).
"""

from __future__ import annotations

from typing import ClassVar, Final

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import log_softmax
from tonnage.arch.objectives.preferences import Preference, log_sigmoid, mean_of, selected_answers, total
from tonnage.arch.objectives.selected import handed_out
from tonnage.arch.tape import Tape, Value
from tonnage.tensors import Axes, size

OF_BOTH: Final = ("mask", "labels", "ids apart", "mask apart", "labels apart")


class Whole(Preference):
    """What all of them share: a batch with a mask and labels."""

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """Mask and labels, but where these are taken out of the batch."""
        return [tape.new(label, ids, "int64") for label in (("mask", "labels") if self.joins else ("mask",))]

    def named(self, tape: Tape, ids: Axes) -> list[Value]:
        """The labels, which are taken out of the batch."""
        return [tape.new("labels", ids, "int64")]


class Compared(Whole):
    """DPO (arXiv:2305.18290) with the sigmoid loss: the pass is of copies of the batch."""

    joins: ClassVar[bool] = True

    def named(self, tape: Tape, ids: Axes) -> list[Value]:
        """Copies of ids, mask and labels."""
        return copied(tape, ids)

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The loss of a batch whose first half was chosen."""
        hand = [x]
        del x
        tape, half = f.tape, self.judged(labels.axes)
        logits, logps = answers(f, head, hand.pop(), labels.axes)
        chosen, rejected = ops.split(logps, (half, half))
        # Its pass is of copies of its own, when the policy's are gone but for ids that an embedding keeps.
        again = copied(tape, labels.axes)[len(f.around) :]
        # Here the reference runs.
        tape.pause()
        again.clear()
        reference = tape.new("log-probabilities of the reference", logps.axes, "fp32")
        ratios = ops.sub(chosen, rejected, "log ratios")
        known = tape.new("log ratios of the reference", half, "fp32")
        del reference
        loss = mean_of(ops.scaled(log_sigmoid(ops.scaled(ops.sub(ratios, known, "difference of log ratios")))))
        del logits
        return loss


class Judged(Whole):
    """KTO (arXiv:2402.01306): answers that were judged one by one, half of them good.

    The policy and then the reference run over the batch and over another one. What the policy makes of the first is
    copied by judgement before the reference runs; what the reference makes of it is named while it runs over the other.

    Reference: https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/src/llamafactory/train/kto/trainer.py
    """

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """Mask and labels, all of the other batch, and the judgements."""
        return [*(tape.new(what, ids, "int64") for what in OF_BOTH), tape.new("judgements", ids[:1], "bool")]

    joins: ClassVar[bool] = True

    def named(self, tape: Tape, ids: Axes) -> list[Value]:
        """A copy of the ids, which an embedding that is trained keeps; the other copies are gone behind the pass."""
        return [tape.new("copy of the batch", ids, "int64")]

    def judged(self, ids: Axes) -> Axes:
        """Every answer."""
        return ids[:1]

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The loss of a batch."""
        hand = [x]
        del x
        tape, (rows, _) = f.tape, labels.axes
        logits, logps = answers(f, head, hand.pop(), labels.axes)
        # Here the policy runs over the other batch, as each pass does in copies of both.
        self.run(f, labels.axes)
        apart = [tape.new("log-probabilities apart", (rows,), "fp32")]
        (_, T, V), parts = logits.axes, [(rows[0], rows[1] - rows[1] // 2), (rows[0], rows[1] // 2)]
        tape.category = "logits"
        copies = [tape.new("logits of a judgement", (part, T, V), "fp32") for part in parts]
        del logits
        tape.category = "loss"
        places = [tape.new("places", (part,), "int64") for part in parts]
        chosen, rejected = (selected_answers(logps, place) for place in places)
        # Here the reference runs over the batch, and over the other one.
        self.run(f, labels.axes)
        tape.category = "logits"
        known = [tape.new("logits of the reference", (rows, T, V), "fp32")]
        tape.category = "loss"
        known += [tape.new("log-probabilities of the reference", (rows,), "fp32") for _ in range(2)]
        self.run(f, labels.axes)
        known.clear()
        apart += [tape.new("log-probabilities of the reference", (rows,), "fp32") for _ in range(2)]
        each = [ops.scaled(ops.unary(ops.scaled(v), "sigmoid", saves="output")) for v in (chosen, rejected)]
        loss = mean_of(ops.cat((each[0], each[1]), (rows,)))
        copies.clear()
        apart.clear()
        return loss

    @staticmethod
    def run(f: Forward, ids: Axes) -> None:
        """Another pass, beside copies of the batch: ``nested_detach(batch, clone=True)``."""
        tape = f.tape
        copies = [tape.new("copy of the batch", ids, "int64") for _ in range(len(OF_BOTH) + 1 - len(f.around))]
        copies.append(tape.new("copy of the judgements", ids[:1], "bool"))
        tape.pause()
        copies.clear()


class Alone(Whole):
    """ORPO (arXiv:2403.07691) and SimPO (arXiv:2405.14734): means over the tokens of an answer, and no reference."""

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The loss of a batch whose first half was chosen."""
        hand = [x]
        del x
        half = self.judged(labels.axes)
        logits, logps = answers(f, head, hand.pop(), labels.axes)
        chosen, rejected = ops.split(ops.scaled(logps), (half, half))
        loss = mean_of(ops.scaled(log_sigmoid(ops.scaled(ops.sub(chosen, rejected, "log ratios")))))
        del logits
        return loss


def copied(tape: Tape, ids: Axes) -> list[Value]:
    """``nested_detach(batch, clone=True)``."""
    return [tape.new("copy of the batch", ids, "int64") for _ in range(3)]


def answers(f: Forward, head: Head, x: Value, ids: Axes) -> tuple[Value, Value]:
    """All logits in fp32, and the sums of the answers' log-probabilities."""
    tape, hand = f.tape, [x]
    del x
    (B, T) = ids
    logits = ops.cast(handed_out(f, head, hand), "fp32")
    tape.category = "loss"
    rest: Axes = (B, ("T", T[1] - 1))
    labels = tape.new("labels", rest, "int64")
    mask = tape.new("labels that count", rest, "bool")
    short = ops.narrow(logits, (*rest, logits.axes[2]))
    scores = log_softmax(short)
    if B[1] > 1:
        # The kernel takes rows that lie one behind the other, and copies them when its result is allocated.
        tape.scratch("logits, contiguous", size(short.axes) * 4)
    each = _picked(scores, labels)
    del scores, short
    return logits, total(_counted(each, mask))


def _picked(scores: Value, labels: Value) -> Value:
    """``gather``: keeps the labels; its gradient is put into zeros."""
    tape, whole, dtype = scores.tape, scores.axes, scores.dtype
    out = tape.new("log-probabilities", labels.axes, dtype)
    tape.record((out,), (scores,), lambda g: (tape.new("gradient of log-probabilities", whole, dtype),), (labels,))
    return out


def _counted(each: Value, mask: Value) -> Value:
    """``each * mask``."""
    tape, axes, dtype = each.tape, each.axes, each.dtype
    out = tape.new("log-probabilities that count", axes, dtype)
    tape.record((out,), (each,), lambda g: (tape.new("gradient of product", axes, dtype),), (mask,))
    return out
