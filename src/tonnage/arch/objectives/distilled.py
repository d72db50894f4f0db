"""Losses of a student that is compared with a teacher, token by token over the whole vocabulary.

Both tables of logits are there, and every operation of the divergence makes another one.

Reference: https://github.com/huggingface/trl/blob/v1.16.0/trl/experimental/gkd/gkd_trainer.py (generalized_jsd_loss,
compute_loss); https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/ Loss.cpp (kl_div),
ReduceOps.cpp (logsumexp)
"""

from __future__ import annotations

from typing import Literal

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss, log_softmax
from tonnage.arch.objectives.scored import counted, rows_of
from tonnage.arch.objectives.selected import handed_out
from tonnage.arch.tape import WIDTH, Grads, Tape, Value
from tonnage.tensors import Axes, size

Divergence = Literal["jsd", "forward", "reverse"]
"""Jensen and Shannon's between both (beta between 0 and 1), teacher to student (beta 0), student to teacher (1)."""


class Distilled(Loss):
    """Generalized knowledge distillation (arXiv:2306.13649); MiniLLM's is its reverse divergence.

    Args:
        completion: tokens of a sequence that are compared; None for all but the first.
        divergence: which one.
        teacher: format of the teacher's logits.
    """

    completion: int | None = None
    divergence: Divergence = "jsd"
    teacher: str = "bf16"

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """Mask and labels."""
        return [tape.new("masks", ids, "int64") for _ in range(2)]

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The divergence, summed over what counts."""
        tape, hand = f.tape, [x]
        del x
        logits = handed_out(f, head, hand)
        # Here the teacher runs.
        tape.pause()
        form = "fp32" if tape.autocast is not None else self.teacher
        taught = tape.new("logits of the teacher", logits.axes, form)
        (B, T, V) = logits.axes
        rest: Axes = (B, ("T", T[1] - 1), V)
        tape.category = "loss"
        named = self._divergence(ops.narrow(logits, rest), taught.view(rest))
        mask = tape.new("labels that count", rest[:2], "bool")
        rows = B[1] * counted(T[1], self.completion)
        named.append(rows_of(named.pop(), mask, (("N", rows), V), "divergence of labels that count"))
        return summed(named[-1])

    def _divergence(self, student: Value, teacher: Value) -> list[Value]:
        """What the modelled function names: the last is the divergence of every word."""
        tape, axes = student.tape, student.axes
        tempered = [ops.scaled(student, "student over temperature"), ops.scaled(teacher, "teacher over temperature")]
        student, teacher = log_softmax(tempered[0]), log_softmax(tempered[1])
        named = [*tempered, student, teacher]
        if self.divergence != "jsd":
            return [*named, _kl(student, teacher) if self.divergence == "forward" else _kl(teacher, student)]
        beta = [tape.new("beta", (), student.dtype), tape.new("1 - beta", (), student.dtype)]
        parts = (ops.shifted(student, "student and a number"), ops.shifted(teacher, "teacher and a number"))
        both = ops.cat(parts, (("X", 2), *axes), "both")
        del parts
        hand = [both]
        del both
        mixture = _log_sum(hand.pop(), axes)
        first, second = _kl(mixture, teacher), _kl(mixture, student)
        weighted = (ops.scaled(first, "weighted"), ops.scaled(second, "weighted"))
        return [*named, *beta, mixture, first, second, ops.add(*weighted, "divergence")]


def _kl(given: Value, target: Value) -> Value:
    """``F.kl_div(given, target, log_target=True)``, word by word."""
    share = ops.unary(target, "exp", saves="output")
    apart = ops.sub(target, given)
    return ops.mul(share, apart, "divergence")


def _log_sum(both: Value, axes: Axes) -> Value:
    """``logsumexp`` over two: keeps what it is given and its result."""
    tape, whole, dtype = both.tape, both.axes, both.dtype
    out = tape.new("mixture", axes, dtype)
    # The kernel's own: the maxima, and what is left of both without them.
    tape.scratch("exponentials", 3 * size(axes) * WIDTH[dtype])

    def back(g: Value) -> Grads:
        apart = tape.new("both less the mixture", whole, dtype)
        share = tape.new("shares", whole, dtype)
        grad = tape.new("gradient of both", whole, dtype)
        del apart, share
        return (grad,)

    tape.record((out,), (both,), back, (both, out))
    return out


def summed(x: Value) -> Value:
    """``x.sum() / mask.sum()``: its gradient is seen as one for every element."""
    tape, axes = x.tape, x.axes
    whole = tape.new("sum", (), x.dtype)
    count = tape.new("labels that count, summed", (), "int64")
    out = tape.new("loss", (), x.dtype)
    del whole
    tape.record((out,), (x,), lambda g: (g.view(axes),), (count,))
    return out
