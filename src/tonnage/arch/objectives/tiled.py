"""The next token's loss through TRL's fused head: what ``SFTTrainer`` of TRL 1.16 trains with.

Reference: https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/sft_trainer.py (``compute_loss``)
"""

from __future__ import annotations

from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss
from tonnage.arch.objectives.scored import log_probs
from tonnage.arch.tape import Value
from tonnage.tensors import Axes

TOLD = ("entropy", "is_top1")
"""What the pass tells of every token beside, for the log."""
ONE: Axes = (("X", 1),)


class Tiled(Loss):
    """The loss of every label but the first of each sequence."""

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """Mean cross entropy of what the head would make of ``x`` (axes ``B T D``)."""
        hand = [x]
        del x
        told = log_probs(f, head, hand.pop(), None, TOLD)
        tape, shown = f.tape, told[0].axes
        negative = tape.new("negative log-probabilities", shown, "fp32")
        tape.record((negative,), (told[0],), lambda g: (tape.new("gradient of log-probabilities", shown, "fp32"),), ())
        total = tape.new("sum of losses", ONE, "fp32")
        tape.record((total,), (negative,), lambda g: (g.view(shown),), ())
        least = tape.new("number of labels, at least one", ONE, "int64")
        loss = tape.new("loss", ONE, "fp32")
        tape.record((loss,), (total,), lambda g: (tape.new("gradient of sum", ONE, "fp32"),), (least,))
        return loss
