"""The loss of a reward model: pairs of answers, each judged by one number.

Reference: https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/reward_trainer.py (compute_loss)
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss
from tonnage.arch.preferences import log_sigmoid
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
        rewards = head.forward(f, hand.pop())
        tape = f.tape
        if tape.autocast is not None:
            rewards = ops.cast(rewards, "fp32")
        tape.category = "loss"
        (name, rows) = labels.axes[0]
        half: Axes = ((name, rows // 2),)
        chosen, rejected = ops.split(rewards.view(labels.axes[:1]), (half, half))
        return _mean(ops.scaled(log_sigmoid(ops.sub(chosen, rejected))))


def _mean(x: Value) -> Value:
    """``x.mean()``."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("loss", (), dtype)

    def back(g: Value) -> Grads:
        return (tape.new("gradient of mean", axes, dtype),)

    tape.record((out,), (x,), back, ())
    return out
