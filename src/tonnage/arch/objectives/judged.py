"""The losses of judges: pairs of answers, each judged by one number; pairs of texts that are read as one.

Reference: https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/reward_trainer.py (compute_loss);
https://github.com/UKPLab/sentence-transformers/blob/v6.2.0/sentence_transformers/cross_encoder/losses/
binary_cross_entropy.py
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss
from tonnage.arch.objectives.preferences import log_sigmoid
from tonnage.arch.objectives.selected import handed_out
from tonnage.arch.tape import Grads, Tape, Value
from tonnage.tensors import Axes


class Reward(Loss):
    """Bradley and Terry's loss of a classifier with one label."""

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """The mask."""
        return [tape.new("masks", ids, "int64")]

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The loss of a batch whose first half was chosen."""
        hand = [x]
        del x
        rewards = handed_out(f, head, hand)
        f.tape.category = "loss"
        (name, rows) = labels.axes[0]
        half: Axes = ((name, rows // 2),)
        chosen, rejected = ops.split(rewards.view(labels.axes[:1]), (half, half))
        return _mean(ops.scaled(log_sigmoid(ops.sub(chosen, rejected))))


class Relevance(Loss):
    """Binary cross entropy of a classifier with one label: a cross-encoder."""

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """The mask, and how well the texts fit."""
        return [tape.new("masks", ids, "int64"), tape.new("labels", ids[:1], "fp32")]

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The loss of a batch."""
        hand = [x]
        del x
        scores = handed_out(f, head, hand)
        tape = f.tape
        tape.category = "loss"
        flat = scores.view(labels.axes[:1])
        target = tape.new("labels, as numbers", flat.axes, "fp32")
        axes, dtype = flat.axes, flat.dtype
        out = tape.new("loss", (), "fp32")
        tape.record((out,), (flat,), lambda g: (tape.new("gradient of scores", axes, dtype),), (flat, target))
        return out


def _mean(x: Value) -> Value:
    """``x.mean()``."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("loss", (), dtype)

    def back(g: Value) -> Grads:
        return (tape.new("gradient of mean", axes, dtype),)

    tape.record((out,), (x,), back, ())
    return out
