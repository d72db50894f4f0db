"""Contrastive training of embeddings: pairs of texts, the others of a batch as what does not fit.

Reference: https://github.com/UKPLab/sentence-transformers/blob/v6.2.0/sentence_transformers/sentence_transformer/
modules/pooling.py, losses/multiple_negatives_ranking.py
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss, cross_entropy
from tonnage.arch.tape import HALF, Grads, Tape, Value
from tonnage.tensors import Axes


class Contrast(Loss):
    """Cross entropy over the similarities of a batch (arXiv:1705.00652), of means over the tokens of a text."""

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """The masks, and the ids of the other texts."""
        return [tape.new("masks and other ids", ids, "int64") for _ in range(3)]

    def forward(self, f: Forward, head: Head | None, x: Value, labels: Value) -> Value:
        """The loss of texts that are compared with those of another pass."""
        tape = f.tape
        tape.category = "loss"
        (B, T, D) = x.axes
        mask = tape.new("mask in the states' format", (B, T, ("X", 1)), x.dtype)
        hand = [ops.mul(x, mask, "states that count")]
        del mask
        sums = _over_tokens(hand.pop(), (B, D))
        means = ops.mul(sums, tape.new("numbers of tokens", (B, ("X", 1)), sums.dtype), "means")
        units = ops.mul(means, tape.new("lengths", (B, ("X", 1)), means.dtype), "of length one")
        others = tape.new("the other texts", (B, D), units.dtype)
        scores = ops.scaled(ops.matmul(units, others, (B, ("V", B[1])), "similarities"))
        return cross_entropy(scores, tape.new("labels", (B,), "int64"), causal=False, wide=False)


def _over_tokens(x: Value, axes: Axes) -> Value:
    """``x.sum(1, dtype=torch.float32)``: its gradient is seen as one for every token, in the format of ``x``."""
    tape, whole, dtype = x.tape, x.axes, x.dtype
    out = tape.new("sums over tokens", axes, "fp32" if dtype in HALF else dtype)

    def back(g: Value) -> Grads:
        return (tape.new("gradient of states", whole, dtype) if dtype in HALF else g.view(whole),)

    tape.record((out,), (x,), back, ())
    return out
