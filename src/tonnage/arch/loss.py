"""The loss: cross entropy over the vocabulary, as transformers computes it.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/loss/loss_utils.py
(ForCausalLMLoss, ForMaskedLMLoss)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tonnage.arch.ops import cast, copy, narrow, raised
from tonnage.arch.tape import Grads, Tape, Value
from tonnage.record import Record
from tonnage.tensors import Axes

if TYPE_CHECKING:
    from tonnage.arch.ends import Head
    from tonnage.arch.forward import Forward


class Loss(Record):
    """What computes head and loss together, in place of transformers' own loss of all logits."""

    joins: ClassVar[bool] = False
    """The token ids of the pass are a copy, the first of what is ``named``."""

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """What a batch holds beside the token ids, whose axes are given."""
        return []

    def named(self, tape: Tape, ids: Axes) -> list[Value]:
        """What the code around the model makes before the pass, and names until the loss is there."""
        return []

    def on(self, memory: int | None, architecture: str) -> Loss:
        """The same on a device of so much memory [byte] and that architecture, None and empty where none is named."""
        return self

    def enter(self, f: Forward) -> None:
        """What the code around the model asks of its pass."""

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The loss of the last hidden states ``x`` (axes ``B T D``), which are handed over; ``head`` is the model's."""
        raise NotImplementedError


def padded_labels(labels: Value) -> Value:
    """The labels with one more behind each sequence."""
    (_, B), (_, T) = labels.axes
    return labels.tape.new("padded labels", (("B", B), ("T", T + 1)), "int64")


def shifted_labels(padded: Value, axes: Axes) -> Value:
    """The labels one token on: a view of one padded sequence, a copy of several."""
    return padded.view(axes) if axes[0][1] == 1 else padded.tape.new("shifted labels", axes, "int64")


def cross_entropy(logits: Value, labels: Value, *, causal: bool, wide: bool) -> Value:
    """Mean cross entropy of ``logits`` (axes ``B T V``).

    The log-softmax is kept, and the backward pass takes two more tensors of that size. Where it is ``wide``, the logits
    are cast to fp32 first.
    """
    tape = logits.tape
    tape.category = "loss"
    if wide:
        logits = cast(logits, "fp32")
    axes = labels.axes
    if causal:
        labels = padded_labels(labels)
    target = shifted_labels(labels, axes) if causal else labels
    return log_likelihood(logits, target)


def of_model(head: Head, logits: Value, labels: Value, *, causal: bool) -> Value:
    """The loss that the model's class computes of all its logits."""
    if head.sliced:
        return _of_slice(logits, labels, wide=head.sliced == "loss")
    return cross_entropy(logits, labels, causal=causal, wide=causal or head.raised)


def _of_slice(logits: Value, labels: Value, *, wide: bool) -> Value:
    """As models' own code and transformers' loss did until 2025: of all logits but the last token's.

    Of several sequences these are a copy. Where it is ``wide``, all logits are cast to fp32 first, under a name.
    """
    tape = logits.tape
    tape.category = "loss"
    named = cast(logits, "fp32") if wide else logits
    B, T, V = logits.axes
    (_, rows), (letter, tokens) = labels.axes
    short: Axes = (B, (letter, tokens - 1))
    part = narrow(named, (B, (T[0], T[1] - 1), V))
    if rows > 1:
        part = copy(part, label="logits but the last")
    target = tape.new("labels but the first", short, "int64") if rows > 1 else labels.view(short)
    return log_likelihood(part, target)


def handed_out(head: Head, logits: Value) -> None:
    """Accelerate's cast of the output's logits to fp32 under autocast, when the model is through: dropped with it.

    It takes more than what came before only where the loss did not cast them.
    """
    tape = logits.tape
    if head.sliced == "plain" and tape.autocast is not None:
        tape.casts.clear()
        tape.new("logits of the output in fp32", logits.axes, "fp32")


def log_likelihood(logits: Value, target: Value, *, whole: bool = True) -> Value:
    """``F.cross_entropy``: one number, or one for each token; the log-softmax is kept, and so is what is asked for."""
    # Autocast leaves this log-softmax alone, since its format is spelt out, and casts for the likelihood.
    plain = log_softmax(logits)
    return of_scores(raised(plain), target, whole=whole)


def of_scores(scores: Value, target: Value, *, whole: bool = True) -> Value:
    """``F.nll_loss`` of a log-softmax."""
    tape = scores.tape
    axes, dtype = scores.axes, scores.dtype
    loss = tape.new("loss", (("X", 1),) if whole else axes[:-1], dtype)
    weight = tape.new("total weight", (("X", 1),), dtype)

    def back(g: Value) -> Grads:
        return (tape.new("gradient of log-softmax", axes, dtype),)

    tape.record((loss,), (scores,), back, (scores, target, weight))
    return loss


def wide_likelihood(logits: Value, target: Value) -> Value:
    """``F.cross_entropy(logits.float(), target)``, of which compiled code keeps the logits and two numbers a row.

    https://github.com/pytorch/pytorch/blob/v2.13.0/torch/_functorch/partitioners.py: what is cast and what is made of
    it element by element is made again.
    """
    tape = logits.tape
    if not tape.fuses_loss:
        return log_likelihood(cast(logits, "fp32"), target)
    axes, dtype = logits.axes, logits.dtype
    rows = tuple(tape.new(what, axes[:-1], "fp32") for what in ("most of each row", "logarithm of its sum"))
    loss = tape.new("loss", (("X", 1),), "fp32")
    weight = tape.new("total weight", (("X", 1),), "fp32")
    tape.record(
        (loss,), (logits,), lambda g: (tape.new("gradient of logits", axes, dtype),), (logits, *rows, target, weight)
    )
    return loss


def log_softmax(x: Value) -> Value:
    """``F.log_softmax(x, -1)``: keeps its result."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    (out,) = tape.results("softmax", lambda: (tape.new("log-softmax", axes, dtype),))
    tape.record((out,), (x,), lambda g: (tape.new("gradient of logits", axes, dtype),), (out,))
    return out
