"""Losses of pairs of answers and of answers that were judged, as TRL writes them: DPO, KTO, ORPO, CPO.

Each is made of the log-probabilities of whole answers. Chosen and rejected ones are one batch. What is logged is left
out, since it never reaches as high as the head's tiles.

Reference: https://github.com/huggingface/trl/blob/v1.16.0/trl/ trainer/dpo_trainer.py, trainer/kto_trainer.py
(_compute_loss)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss, cross_entropy
from tonnage.arch.objectives.scored import Lengths, counted, log_probs
from tonnage.arch.objectives.selected import Way, averaged, entropies, handed_out, of_all, selected
from tonnage.arch.tape import Grads, Storage, Tape, Value
from tonnage.tensors import Axes, Axis

TOLD: Final = ("entropy", "mean_logits", "is_top1")
"""What the policy's pass tells of every token, for the log."""


class Preference(Loss):
    """A loss over log-probabilities of answers.

    Args:
        completion: tokens of a sequence that are scored, of chosen and of rejected ones where they differ; None for all
            but the first.
        given: whether the reference's log-probabilities were computed before, and are part of the batch.
        how: log-probabilities are taken.
    """

    completion: Lengths = None
    given: bool = False
    how: Way = "tiles"
    masks: ClassVar[int] = 2
    told: ClassVar[tuple[str, ...]] = TOLD

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """What is of the ids' shape, and what was computed before."""
        masks = [tape.new("masks", ids, "int64") for _ in range(self.masks)]
        known = [tape.new("log-probabilities of the reference", self.judged(ids), "fp32") for _ in range(2)]
        return [*masks, *(known if self.given else [])]

    def named(self, tape: Tape, ids: Axes) -> list[Value]:
        """The labels: the ids, where they are scored."""
        return [tape.new("labels", ids, "int64")] if self.how == "tiles" else []

    def judged(self, ids: Axes) -> Axes:
        """What is judged as one: a pair, of which the first half of the batch was chosen."""
        return ((ids[0][0], ids[0][1] // 2),)

    def scored(self, f: Forward, head: Head, hand: list[Value]) -> tuple[list[Value], Value]:
        """What is named of the tokens' numbers, and the sums over the answers. The hidden states are handed over."""
        if self.how == "tiles":
            found = log_probs(f, head, hand.pop(), self.completion, self.told)
            # Of which a slice is taken first.
            return found, total(ops.narrow(found[0], found[0].axes))
        found = of_all(f, head, hand, self.how)
        return found, total(found[0])

    def referred(self, tape: Tape, found: list[Value], judged: Value) -> list[Value]:
        """What is named of the reference when it has run; the last are its numbers."""
        if self.given:
            return []
        before, tape.category = tape.category, "logits"
        tables = [] if self.how == "tiles" else [v.storage for v in found[1:] if len(v.axes) > len(found[0].axes)]
        whole = [tape.new("logits of the reference", s.axes, s.dtype) for s in tables]
        tape.category = before
        each = [] if self.how == "tiles" else [tape.new("log-probabilities", found[0].axes, found[0].dtype)]
        return [*whole, *each, tape.new("log-probabilities of the reference", judged.axes, judged.dtype)]

    def logged(self, tape: Tape, logits: Value) -> list[Value]:
        """What is named of the entropy, for the log: of all tokens, their sum and how many there are."""
        found = [] if self.how == "kernel" else [entropies(logits)]
        form = found[0].dtype if found else "fp32"
        return [*found, tape.new("sum of entropies", (), form), tape.new("number of tokens", (), "int64")]

    def less_given(self, logps: Value) -> Value:
        """How far answers are from the reference's log-probabilities in fp32, which are part of the batch."""
        return ops.shifted(logps, "log ratios") if logps.dtype == "fp32" else ops.cast(logps, "fp32", "log ratios")


class DPO(Preference):
    """Direct preference optimization (arXiv:2305.18290) with the sigmoid loss."""

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The loss of a batch whose first half was chosen."""
        hand = [x]
        del x
        found, logps = self.scored(f, head, hand)
        tape, half = f.tape, self.judged(labels.axes)
        # Here the reference runs; its log-probabilities are two halves of one tensor.
        tape.pause()
        others = self.referred(tape, found, logps)
        chosen, rejected = ops.split(logps, (half, half))
        if self.given:
            first, second = self.less_given(chosen), self.less_given(rejected)
        else:
            known = others[-1].view(half).detached()
            first, second = (ops.sub(v, known, "log ratios") for v in (chosen, rejected))
        delta = ops.sub(first, second, "difference of log ratios")
        each = ops.scaled(log_sigmoid(ops.scaled(delta)))
        loss = mean_of(each)
        if self.how != "tiles":
            logits = found[1].detached()
            kept = self.logged(tape, logits)
            (_, T, V), lengths = logits.axes, self.completion
            part = logits.view((*half, T, V))
            for n in lengths if isinstance(lengths, tuple) else (lengths, lengths):
                kept += averaged(part, half[0][1] * counted(T[1] + 1, n))
            del kept, logits, part
        return loss


class KTO(Preference):
    """Kahneman-Tversky optimization (arXiv:2402.01306): answers that were judged one by one, half of them good.

    Each batch comes with another one, of answers to other prompts, on which the policy and the reference are compared
    without a gradient.

    Args:
        apart: logits of good and of bad answers are copied before the reference runs, as up to TRL 1.8.
    """

    apart: bool = False
    masks: ClassVar[int] = 5
    told: ClassVar[tuple[str, ...]] = TOLD[:2]

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """The batch, the other one, and the judgements."""
        return [*super().inputs(tape, ids), tape.new("judgements", ids[:1], "bool")]

    def named(self, tape: Tape, ids: Axes) -> list[Value]:
        """The labels, the other batch's log-probabilities and two counts."""
        form = "fp32" if self.how in ("tiles", "kernel") or tape.autocast is not None else tape.weights
        counts = [tape.new("count of judgements", (), "int64") for _ in range(2)]
        counts += [tape.new("judgements", ids[:1], "bool")] if self.apart else []
        return [*super().named(tape, ids), tape.new("log-probabilities apart", ids[:1], form), *counts]

    def judged(self, ids: Axes) -> Axes:
        """Every answer."""
        return ids[:1]

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The loss of a batch."""
        hand = [x]
        del x
        found, logps = self.scored(f, head, hand)
        tape, ((name, rows), _) = f.tape, labels.axes
        parts = [(name, rows - rows // 2), (name, rows // 2)]
        places = [tape.new("places", (part,), "int64") for part in parts]
        answers = [selected_answers(logps, place) for place in places]
        # Here the reference runs, first on the other batch.
        tiles, form = self.how == "tiles", "fp32" if self.given else logps.dtype
        other = [tape.new("labels of the other batch", labels.axes, "int64")] if tiles and not self.given else []
        others = self.split(found[1].storage, parts) if self.apart else []
        others += [] if tiles or self.given else [tape.new("reference's apart", labels.axes[:1], form)]
        tape.pause()
        other.clear()
        if not tiles:
            # The reference's numbers, how far both are apart, and for each judgement a ratio and a reward.
            others += self.referred(tape, found, logps)
            named = ("reference", "reward") if self.given else ("reference", "ratio", "reward")
            others += [tape.new(what, (part,), form) for part in parts for what in named]
            others.append(tape.new("divergence", (), form))
        ratios = [self.less_given(v) for v in answers] if self.given and not tiles else answers
        losses = [ops.scaled(ops.unary(ops.scaled(v), "sigmoid", saves="output")) for v in ratios]
        each = ops.cat((losses[0], losses[1]), labels.axes[:1])
        if not tiles:
            logits = found[1].detached()
            kept = self.logged(tape, logits)
            if not self.apart:
                self.averaged(logits, parts)
            kept.clear()
            del logits
        loss = mean_of(each)
        others.clear()
        return loss

    @staticmethod
    def split(logits: Storage, parts: Sequence[Axis]) -> list[Value]:
        """Copies of the logits of good and of bad answers."""
        tape = logits.tape
        before, tape.category = tape.category, "logits"
        found = [tape.new("logits of a judgement", (part, *logits.axes[1:]), logits.dtype) for part in parts]
        tape.category = before
        return found

    def averaged(self, logits: Value, parts: Sequence[Axis]) -> None:
        """Their means, for the log."""
        tape, T, V = logits.tape, *logits.axes[1:]
        judged = [tape.new("logits of a judgement", (part, T, V), logits.dtype) for part in parts]
        masks = [tape.new("masks", (part, T), "int64") for part in parts]
        assert not isinstance(self.completion, tuple)
        for each in judged:
            masks += averaged(each, each.axes[0][1] * counted(T[1] + 1, self.completion))
        masks.clear()


def selected_answers(x: Value, places: Value) -> Value:
    """``x.index_select(0, places)``: keeps the places."""
    tape, whole, dtype = x.tape, x.axes, x.dtype
    out = tape.new("selected", places.axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of selected", whole, dtype),), (places,))
    return out


class Odds(Preference):
    """ORPO (arXiv:2403.07691), CPO (arXiv:2401.08417) and, without a likelihood, SimPO (arXiv:2405.14734).

    All logits are made at once, and there is no reference. Under accelerate's autocast they are cast to fp32.

    Args:
        odds: of answers are compared, in fp32, as ORPO does.
        likelihood: the mean likelihood of the chosen answers is part of the loss.

    Reference: https://github.com/huggingface/trl/blob/v1.16.0/trl/ experimental/orpo/orpo_trainer.py,
    experimental/cpo/cpo_trainer.py (concatenated_forward), kernels/logprob_entropy.py
    """

    odds: bool = False
    likelihood: bool = True
    joins: ClassVar[bool] = True

    def named(self, tape: Tape, ids: Axes) -> list[Value]:
        """Ids, mask and labels of both halves, joined."""
        return [tape.new("joined batch", ids, "int64") for _ in range(3)]

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The loss of a batch whose first half was chosen."""
        tape, hand = f.tape, [x]
        del x
        logits = handed_out(f, head, hand)
        tape.category = "loss"
        (B, T), V = labels.axes, logits.axes[2]
        rest = (B, ("T", T[1] - 1))
        targets = tape.new("labels", labels.axes, "int64")
        loss = self._likelihood(logits, V) if self.likelihood else tape.new("no likelihood", (), "fp32")
        index = tape.new("shifted labels", rest, "int64")
        counts = tape.new("labels that count", rest, "bool")
        hidden = tape.new("labels that do not count", rest, "bool")
        if self.odds:
            # Which elsewhere is done in place.
            index = tape.new("labels, none negative", rest, "int64")
        del hidden
        each = selected(ops.narrow(logits, (*rest, V)), index, "kernel" if self.how == "tiles" else self.how)[0]
        answers = ops.scaled(total(ops.mul(each, counts)))
        answers = ops.cast(answers, "fp32") if self.odds else answers
        del targets
        half = self.judged(labels.axes)
        chosen, rejected = ops.split(answers, (half, half))
        apart = mean_of(ops.scaled(log_sigmoid(ops.sub(chosen, rejected))))
        if not self.odds and self.likelihood:
            loss = ops.scaled(loss, "weighted likelihood")
        return ops.sub(loss, apart, "loss")

    def _likelihood(self, logits: Value, V: Axis) -> Value:
        """Cross entropy of the chosen answers: a copy without the last token of each."""
        (B, T) = logits.axes[:2]
        half, short = (B[0], B[1] // 2), (T[0], T[1] - 1)
        part = ops.copy(ops.narrow(ops.narrow(logits, (half, T, V)), (half, short, V)), label="chosen logits")
        return cross_entropy(part, part.tape.new("chosen labels", (half, short), "int64"), causal=False, wide=False)


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
