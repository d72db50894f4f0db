"""The loss: cross entropy over the vocabulary, as transformers computes it.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/loss/loss_utils.py
(ForCausalLMLoss, ForMaskedLMLoss)
"""

from __future__ import annotations

from tonnage.arch.ops import cast, raised
from tonnage.arch.tape import Grads, Value
from tonnage.tensors import Axes


def _padded(labels: Value) -> Value:
    (_, B), (_, T) = labels.axes
    return labels.tape.new("padded labels", (("B", B), ("T", T + 1)), "int64")


def _shifted(padded: Value, axes: Axes) -> Value:
    """The labels one token on: a view of one padded sequence, a copy of several."""
    return padded.view(axes) if axes[0][1] == 1 else padded.tape.new("shifted labels", axes, "int64")


def cross_entropy(logits: Value, labels: Value, *, causal: bool) -> Value:
    """Mean cross entropy of ``logits`` (axes ``B T V``).

    The log-softmax is kept, and the backward pass takes two more tensors of that size. The causal loss casts the logits
    to fp32 first; that of masked tokens does not.
    """
    tape = logits.tape
    tape.category = "loss"
    if causal:
        logits = cast(logits, "fp32")
    axes = labels.axes
    if causal:
        labels = _padded(labels)
    target = _shifted(labels, axes) if causal else labels
    # Autocast leaves this log-softmax alone, since its format is spelt out, and casts for the likelihood.
    scores = raised(_log_softmax(logits))
    whole, dtype = scores.axes, scores.dtype
    loss = tape.new("loss", (("X", 1),), dtype)
    weight = tape.new("total weight", (("X", 1),), dtype)

    def back(g: Value) -> Grads:
        return (tape.new("gradient of log-softmax", whole, dtype),)

    tape.record((loss,), (scores,), back, (scores, target, weight))
    return loss


def _log_softmax(x: Value) -> Value:
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("log-softmax", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of logits", axes, dtype),), (out,))
    return out
