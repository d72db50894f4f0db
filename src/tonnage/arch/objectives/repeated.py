"""Head and loss by chunks of 256 labels that count, each computed again in the backward pass: TRL's from 1.7 to 1.14.

Labels that count are put in front; a chunk's logits are made from the hidden states and the head in fp32, whatever
their format. The entropy of every token is made for the log.

Reference: https://github.com/huggingface/trl/blob/v1.9.0/trl/trainer/sft_trainer.py (``_chunked_cross_entropy_loss``,
``_chunk``)

Leaves out: what sorting the labels takes for itself.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch import ops
from tonnage.arch.again import checkpointed
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss, log_softmax, of_scores
from tonnage.arch.tape import Parameter, Value
from tonnage.arch.tuning.matrices import against
from tonnage.tensors import Axes

LABELS: Final = 256
"""Of a chunk (``_CHUNKED_LM_HEAD_CHUNK_SIZE``)."""
ONE: Final[Axes] = (("X", 1),)


class Repeated(Loss):
    """The loss of every label but the first of each sequence."""

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """Mean cross entropy of what the head would make of ``x`` (axes ``B T D``)."""
        tape = f.tape
        tape.category = "loss"
        (B, T, D) = x.axes
        rows: Axes = (("N", B[1] * (T[1] - 1)),)
        short = ops.narrow(x, (B, ("T", T[1] - 1), D))
        flat = ops.copy(short, (*rows, D), "hidden states in a row") if B[1] > 1 else short.view((*rows, D))
        del short
        targets = [labels.view(rows) if B[1] == 1 else tape.new("labels in a row", rows, "int64")]
        valid = tape.new("labels that count", rows, "bool")
        counts = [tape.new("number", (), kind) for kind in ("int64", "fp32", "fp32")]
        items = tape.new("labels of the step", (), "fp32")
        narrow = tape.new("labels that count, as numbers", rows, "int8")
        order = tape.new("order", rows, "int64")
        del narrow
        weight = tape.parameter(head.alias_of or f"{head.name}.weight", (("V", head.V), ("D", head.D)))
        bias = tape.parameter(head.bias_alias_of or f"{head.name}.bias", (("V", head.V),)) if head.bias else None
        ordered = tape.new("labels in order", rows, "int64")
        hidden = _ordered(flat, order, ordered)
        del flat
        targets.clear()
        total: Value | None = None
        tape.several(weight)
        for start in range(0, rows[0][1], LABELS):
            n = ("N", min(LABELS, rows[0][1] - start))
            part = ops.narrow(hidden, (n, D))

            def run(h: Value, n: tuple[str, int] = n) -> Value:
                return _chunk(f, h, weight, bias, n)

            loss = checkpointed(run, part)
            del part
            total = ops.shifted(loss, "loss") if total is None else ops.add(total, loss, "loss")
            del loss
        tape.often.clear()
        assert total is not None
        out = tape.new("loss", ONE, "fp32")
        tape.record((out,), (total,), lambda g: (tape.new("gradient of sum", ONE, "fp32"),), (items,))
        del valid, counts, order, ordered, hidden
        return out


def _ordered(x: Value, order: Value, labels: Value) -> Value:
    """``x[order]``: keeps the order, and puts the gradient into a whole tensor of zeros. The chunks keep the labels."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("hidden states in order", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of hidden states", axes, dtype),), (order, labels))
    return out


def _chunk(f: Forward, h: Value, weight: Parameter, bias: Parameter | None, n: tuple[str, int]) -> Value:
    """The sum of one chunk's losses; what is told beside is let go of."""
    tape, rows = f.tape, (n,)
    tape.category = "logits"
    logits = against(ops.cast(h, "fp32"), ops.weight_in(weight, "fp32"), 1, (("V", weight.axes[0][1]),), "logits")
    if bias is not None:
        logits = ops.add(logits, bias, "logits with bias")
    tape.category = "loss"
    scores = log_softmax(ops.raised(logits))
    loss = of_scores(scores, tape.new("labels of a chunk", (("X", 0),), "int64"))
    counts = tape.new("labels that count", rows, "bool")
    highest = tape.new("highest", rows, "int64")
    del highest
    likely = tape.new("probabilities", scores.axes, "fp32")
    entropy = tape.new("probabilities times logarithms", scores.axes, "fp32")
    entropy = tape.new("entropy", rows, "fp32")
    del likely
    # The backward pass never comes here, but the second run of a chunk goes as far.
    told = tape.new("entropy of labels that count", rows, "fp32")
    tape.record((told,), (scores,), lambda g: (None,), (counts,))
    del logits, entropy
    return loss
