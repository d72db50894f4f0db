"""The loss: cross entropy over the vocabulary, as transformers computes it.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/loss/loss_utils.py
(ForCausalLMLoss, ForMaskedLMLoss)
"""

from __future__ import annotations

from tonnage.arch.ops import cast, raised
from tonnage.arch.tape import Grads, Value
from tonnage.tensors import Axes


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
    return of_scores(logits, target)


def of_scores(logits: Value, target: Value, *, whole: bool = True) -> Value:
    """Cross entropy of logits in their own format: one number, or one for each token."""
    tape = logits.tape
    # Autocast leaves this log-softmax alone, since its format is spelt out, and casts for the likelihood.
    scores = raised(_log_softmax(logits))
    axes, dtype = scores.axes, scores.dtype
    loss = tape.new("loss", (("X", 1),) if whole else axes[:-1], dtype)
    weight = tape.new("total weight", (("X", 1),), dtype)

    def back(g: Value) -> Grads:
        return (tape.new("gradient of log-softmax", axes, dtype),)

    tape.record((loss,), (scores,), back, (scores, target, weight))
    return loss


def _log_softmax(x: Value) -> Value:
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("log-softmax", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of logits", axes, dtype),), (out,))
    return out
