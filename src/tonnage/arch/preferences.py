"""Losses of pairs of answers and of answers that were judged, as TRL writes them: DPO, KTO, ORPO, CPO.

Each is made of the log-probabilities of whole answers. Chosen and rejected ones are one batch. What is logged is left
out, since it never reaches as high as the head's tiles.

Reference: https://github.com/huggingface/trl/blob/v1.16.0/trl/ trainer/dpo_trainer.py, trainer/kto_trainer.py
(_compute_loss)
"""

from __future__ import annotations

from typing import ClassVar, Final

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss, cross_entropy
from tonnage.arch.scored import Lengths, log_probs
from tonnage.arch.tape import Grads, Tape, Value
from tonnage.tensors import Axes, Axis

TOLD: Final = ("entropy", "mean_logits", "is_top1")
"""What the policy's pass tells of every token, for the log."""


class Preference(Loss):
    """A loss over log-probabilities of answers.

    Args:
        completion: tokens of a sequence that are scored, of chosen and of rejected ones where they differ; None for all
            but the first.
        given: whether the reference's log-probabilities were computed before, and are part of the batch.
    """

    completion: Lengths = None
    given: bool = False
    masks: ClassVar[int] = 2

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """What is of the ids' shape, and what was computed before."""
        masks = [tape.new("masks", ids, "int64") for _ in range(self.masks)]
        known = [tape.new("log-probabilities of the reference", self.judged(ids), "fp32") for _ in range(2)]
        return [*masks, *(known if self.given else [])]

    def named(self, tape: Tape, ids: Axes) -> list[Value]:
        """The labels: the ids, where they are scored."""
        return [tape.new("labels", ids, "int64")]

    def judged(self, ids: Axes) -> Axes:
        """What is judged as one: a pair, of which the first half of the batch was chosen."""
        return ((ids[0][0], ids[0][1] // 2),)


class DPO(Preference):
    """Direct preference optimization (arXiv:2305.18290) with the sigmoid loss."""

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The loss of a batch whose first half was chosen."""
        hand = [x]
        del x
        told = log_probs(f, head, hand.pop(), self.completion, TOLD)
        tape, half = f.tape, self.judged(labels.axes)
        logps = _answers(told[0])
        # Here the reference runs; its log-probabilities are two halves of one tensor.
        tape.pause()
        reference = tape.new("log-probabilities of the reference", logps.axes, "fp32")
        chosen, rejected = ops.split(logps, (half, half))
        first = ops.sub(chosen, reference.view(half).detached(), "log ratios")
        second = ops.sub(rejected, reference.view(half).detached(), "log ratios")
        delta = ops.sub(first, second, "difference of log ratios")
        return mean_of(ops.scaled(log_sigmoid(ops.scaled(delta))))


class KTO(Preference):
    """Kahneman-Tversky optimization (arXiv:2402.01306): answers that were judged one by one, half of them good.

    Each batch comes with another one, of answers to other prompts, on which the policy and the reference are compared
    without a gradient.
    """

    masks: ClassVar[int] = 5

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """The batch, the other one, and the judgements."""
        return [*super().inputs(tape, ids), tape.new("judgements", ids[:1], "bool")]

    def named(self, tape: Tape, ids: Axes) -> list[Value]:
        """The labels, the other batch's log-probabilities and two counts."""
        counts = [tape.new("count of judgements", (), "int64") for _ in range(2)]
        return [*super().named(tape, ids), tape.new("log-probabilities apart", ids[:1], "fp32"), *counts]

    def judged(self, ids: Axes) -> Axes:
        """Every answer."""
        return ids[:1]

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The loss of a batch."""
        hand = [x]
        del x
        told = log_probs(f, head, hand.pop(), self.completion, TOLD[:2])
        tape, ((name, rows), _) = f.tape, labels.axes
        logps = _answers(told[0])
        parts = [(name, rows - rows // 2), (name, rows // 2)]
        places = [tape.new("places", (part,), "int64") for part in parts]
        good, bad = (_selected(logps, place) for place in places)
        # Here the reference runs, first on the other batch.
        other = [] if self.given else [tape.new("labels of the other batch", labels.axes, "int64")]
        tape.pause()
        other.clear()
        losses = [ops.scaled(ops.unary(ops.scaled(v), "sigmoid", saves="output")) for v in (good, bad)]
        return mean_of(ops.cat((losses[0], losses[1]), labels.axes[:1]))


def _selected(x: Value, places: Value) -> Value:
    """``x.index_select(0, places)``: keeps the places."""
    tape, whole = x.tape, x.axes
    out = tape.new("selected", places.axes, x.dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of selected", whole, "fp32"),), (places,))
    return out


class Odds(Preference):
    """ORPO (arXiv:2403.07691), CPO (arXiv:2401.08417) and, without a likelihood, SimPO (arXiv:2405.14734).

    All logits are made at once, and there is no reference. Under accelerate's autocast they are cast to fp32.

    Args:
        likelihood: the mean likelihood of the chosen answers is part of the loss.

    Reference: https://github.com/huggingface/trl/blob/v1.16.0/trl/ experimental/orpo/orpo_trainer.py,
    experimental/cpo/cpo_trainer.py (concatenated_forward), kernels/logprob_entropy.py
    """

    likelihood: bool = True
    joins: ClassVar[bool] = True

    def named(self, tape: Tape, ids: Axes) -> list[Value]:
        """Ids, mask and labels of both halves, joined."""
        return [tape.new("joined batch", ids, "int64") for _ in range(3)]

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The loss of a batch whose first half was chosen."""
        tape, hand = f.tape, [x]
        del x
        logits = head.forward(f, hand.pop())
        if tape.autocast is not None:
            logits = ops.cast(logits, "fp32")
        tape.category = "loss"
        (B, T), V = labels.axes, logits.axes[2]
        rest = (B, ("T", T[1] - 1))
        targets = [tape.new("labels", labels.axes, "int64")] if self.likelihood else []
        loss = self._likelihood(logits, V) if self.likelihood else tape.new("no likelihood", (), "fp32")
        shifted = tape.new("shifted labels", rest, "int64")
        counts = tape.new("labels that count", rest, "bool")
        hidden = tape.new("labels that do not count", rest, "bool")
        index = tape.new("labels, none negative", rest, "int64")
        del hidden
        each = _selective(ops.narrow(logits, (*rest, V)), index)
        answers = ops.scaled(total(ops.mul(each, counts)))
        del shifted
        targets.clear()
        half = self.judged(labels.axes)
        chosen, rejected = ops.split(answers, (half, half))
        apart = mean_of(ops.scaled(log_sigmoid(ops.sub(chosen, rejected))))
        return ops.sub(loss, apart, "loss")

    def _likelihood(self, logits: Value, V: Axis) -> Value:
        """Cross entropy of the chosen answers: a copy without the last token of each."""
        (B, T) = logits.axes[:2]
        half, short = (B[0], B[1] // 2), (T[0], T[1] - 1)
        part = ops.copy(ops.narrow(ops.narrow(logits, (half, T, V)), (half, short, V)), label="chosen logits")
        return cross_entropy(part, part.tape.new("chosen labels", (half, short), "int64"), causal=False, wide=False)


def _selective(logits: Value, index: Value) -> Value:
    """``selective_log_softmax`` by Triton's kernel: keeps the logits, and makes two more numbers a token."""
    tape, axes, dtype = logits.tape, logits.axes, logits.dtype
    out = tape.new("log-probabilities", axes[:2], "fp32")
    entropy = tape.new("entropy", axes[:2], "fp32")
    log_sum, expected = (tape.new(label, axes[:2], "fp32") for label in ("logarithms of sums", "expected logits"))
    del entropy
    tape.record(
        (out,), (logits,), lambda g: (tape.new("gradient of logits", axes, dtype),), (logits, index, log_sum, expected),
        custom=True,
    )  # fmt: skip
    return out


def _answers(log_probs: Value) -> Value:
    """Sums over the tokens of a sequence, of which a slice is taken first."""
    return total(ops.narrow(log_probs, log_probs.axes))


def total(x: Value, label: str = "sums over tokens") -> Value:
    """``x.sum(-1)``: its gradient is seen as one for every element."""
    tape, axes = x.tape, x.axes
    out = tape.new(label, axes[:-1], x.dtype)
    tape.record((out,), (x,), lambda g: (g.view(axes),), ())
    return out


def log_sigmoid(x: Value) -> Value:
    """``F.logsigmoid``: saves its input."""
    return ops.unary(x, "log-sigmoid")


def mean_of(x: Value) -> Value:
    """The mean of a vector, times a weight, added to what there was: three numbers, of which the last stays."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    mean = tape.new("mean", (), dtype)
    weighted = tape.new("weighted mean", (), dtype)
    out = tape.new("loss", (), dtype)
    del mean, weighted

    def back(g: Value) -> Grads:
        return (tape.new("gradient of mean", axes, dtype),)

    tape.record((out,), (x,), back, ())
    return out
