"""The update of a policy from completions that it wrote itself: GRPO's loss, as TRL writes it, and what it buffers.

Reference: https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/grpo_trainer.py (_compute_loss,
_get_per_token_logps_and_entropies, _prepare_inputs)
"""

from __future__ import annotations

from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss
from tonnage.arch.objectives.preferences import total
from tonnage.arch.objectives.scored import log_probs
from tonnage.arch.objectives.selected import Way, of_written
from tonnage.arch.tape import Grads, Tape, Value
from tonnage.tensors import Axes, Axis


class Policy(Loss):
    """Group relative policy optimization (arXiv:2402.03300).

    Args:
        completion: tokens of a sequence that were written.
        generated: sequences that are buffered until the next are written.
        kept: numbers a written token that are buffered with them: log-probabilities of the reference, of the policy
            before, of the engine.
        compared: the policy is held near to the reference.
        how: log-probabilities are taken.
        in_place: all logits are divided by the temperature where they are.
    """

    completion: int
    generated: int
    kept: int = 0
    compared: bool = False
    how: Way = "tiles"
    in_place: bool = False
    joins: ClassVar[bool] = True

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """What is buffered, beside the ids of this pass."""
        whole = ("B", self.generated)
        rest = [tape.new("ids of other passes", (("B", self.generated - ids[0][1]), ids[1]), "int64")]
        written: Axes = (whole, ("T", self.completion))
        return [
            *(rest if self.generated > ids[0][1] else []),
            tape.new("masks", (whole, ids[1]), "int64"),
            tape.new("advantages", (whole,), "fp32"),
            tape.new("number of tokens", (), "int64"),
            *(tape.new("log-probabilities", written, "fp32") for _ in range(self.kept)),
        ]

    def named(self, tape: Tape, ids: Axes) -> list[Value]:
        """Ids and mask of prompts and completions, joined, and the labels of tiles."""
        return [tape.new("joined batch", ids, "int64") for _ in range(3 if self.how == "tiles" else 2)]

    def scored(self, f: Forward, head: Head, hand: list[Value], rows: Axis) -> list[Value]:
        """Log-probabilities and entropies of written tokens, and what else is named. Hidden states are handed over."""
        if self.how != "tiles":
            return of_written(f, head, hand, self.completion, self.how, in_place=self.in_place)
        told = log_probs(f, head, hand.pop(), self.completion, ("entropy",))
        written: Axes = (rows, ("T", self.completion))
        logps = ops.copy(ops.narrow(told[0], written), label="log-probabilities, joined")
        return [logps, f.tape.new("entropy, joined", written, "fp32"), *told]

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The loss over written tokens."""
        hand = [x]
        del x
        tape, rows = f.tape, labels.axes[0]
        told = self.scored(f, head, hand, rows)
        logps = told[0]
        ratio = ops.unary(ops.sub(logps, logps.detached()), "exp", saves="output")
        apart = _apart(logps) if self.compared else None
        gain = tape.new("advantages", (rows, ("X", 1)), "fp32")
        clipped = ops.unary(ratio, "clamp")
        each = ops.scaled(_least(ops.mul(ratio, gain), ops.mul(clipped, gain)))
        if apart is not None:
            each = ops.add(each, ops.scaled(apart))
        each = ops.mul(each, tape.new("mask", logps.axes, "fp32"))
        del told
        return _over_all(each)


class LeaveOneOut(Policy):
    """REINFORCE leave-one-out (arXiv:2402.14740): the log-probability of a whole answer.

    Reference: https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/rloo_trainer.py (_compute_loss)
    """

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """What is buffered: of probabilities one number for each answer."""
        found = [v for v in super().inputs(tape, ids) if v.axes]
        return [*found, tape.new("log-probabilities before", (("B", self.generated),), "fp32")]

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The loss over answers."""
        hand = [x]
        del x
        tape, rows = f.tape, labels.axes[0]
        told = self.scored(f, head, hand, rows)
        logps = told[0]
        answers = total(ops.mul(logps, tape.new("mask", logps.axes, "fp32")))
        ratio = ops.unary(ops.scaled(answers), "exp", saves="output")
        gain = tape.new("advantages", (rows,), "fp32")
        clipped = ops.unary(ratio, "clamp")
        each = ops.scaled(_least(ops.mul(ratio, gain), ops.mul(clipped, gain)))
        del told
        return _over_all(each)


def _apart(logps: Value) -> Value:
    """``exp(r - p) - (r - p) - 1``: how far the reference is."""
    known = logps.tape.new("log-probabilities of the reference", logps.axes, "fp32")
    share = ops.unary(ops.sub(known, logps), "exp", saves="output")
    return ops.shifted(ops.sub(share, ops.sub(known, logps)))


def _least(a: Value, b: Value) -> Value:
    """``torch.min(a, b)``: keeps both."""
    tape, axes = a.tape, a.axes
    out = tape.new("least", axes, "fp32")

    def back(g: Value) -> Grads:
        return tape.new("gradient of least", axes, "fp32"), tape.new("gradient of least", axes, "fp32")

    tape.record((out,), (a, b), back, (a, b))
    return out


def _over_all(x: Value) -> Value:
    """A sum over all, over a number."""
    tape, axes = x.tape, x.axes
    whole, out = tape.new("sum", (), "fp32"), tape.new("loss", (), "fp32")
    del whole
    tape.record((out,), (x,), lambda g: (g.view(axes),), ())
    return out
