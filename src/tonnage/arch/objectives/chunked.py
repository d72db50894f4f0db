"""Head and loss by chunks of tokens whose logits are all kept: torchtune's, torchtitan's and litgpt's.

References: https://github.com/pytorch/torchtune/blob/v0.6.1/ torchtune/modules/transformer.py (``chunked_output``),
torchtune/modules/loss/ce_chunked_output_loss.py, recipes/full_finetune_single_device.py (``_loss_step``);
https://github.com/Lightning-AI/litgpt/blob/v0.5.13/litgpt/ (model.py ``lm_head_chunk_size``, utils.py
``chunked_cross_entropy``)
"""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear
from tonnage.arch.loss import Loss, log_likelihood, wide_likelihood
from tonnage.arch.tape import Tape, Value


class Chunked(Loss):
    """Logits in chunks; each goes through the loss by itself, and its log-softmax is kept.

    Args:
        chunks: number of chunks along the sequence; 0 where ``tokens`` tells.
        tokens: of a chunk.
        wide: logits are cast to fp32 before the loss.
        widened: all of them are, as the model's output, before any loss is made.
        names: the caller keeps the logits' names through the backward pass.
        before: the loop still names the logits of the pass before, until these are there.
    """

    chunks: int = 0
    tokens: int = 0
    wide: bool = False
    widened: bool = False
    names: bool = False
    before: bool = False

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """Mean cross entropy of what the head would make of ``x`` (axes ``B T D``)."""
        tape = f.tape
        B, T, D = x.axes
        sizes = list(chunk_sizes(T[1], self.tokens or -(-T[1] // self.chunks)))
        tape.category = "logits"
        form = "fp32" if self.widened else tape.autocast or x.dtype
        old = [tape.new("logits of the last pass", (B, ("T", n), ("V", head.V)), form) for n in sizes if self.before]
        parts = [x]
        if len(sizes) > 1:
            tape.several(tape.parameter(head.alias_of or f"{head.name}.weight", (("V", head.V), ("D", head.D))))
            parts = list(ops.split(x, tuple((B, ("T", n), D) for n in sizes)))
        del x
        logits = []
        while parts:
            part = parts.pop(0)
            # One sequence's part is a view; rows of several are copied together.
            part = part if B[1] == 1 or len(sizes) == 1 else ops.copy(part, label="hidden states of a chunk")
            logits.append(_logits(f, head, part))
            del part
        tape.often.clear()
        if self.widened:
            logits = [ops.cast(made, "fp32") for made in logits]
        old.clear()
        tape.category = "loss"
        if self.names:
            f.logits += logits
        return self._loss(tape, logits, labels, sizes)

    def _loss(self, tape: Tape, logits: list[Value], labels: Value, sizes: list[int]) -> Value:
        """What is made of logits, chunk by chunk: sums that are added up, or one list of all tokens' losses."""
        B, T = labels.axes
        moved = tape.new("shifted labels", labels.axes, "int64") if self.wide else labels
        counted = [tape.new("counted labels", moved.axes, "bool")]
        count = tape.new("number of labels", (("X", 1),), "int64")
        counted.clear()
        targets = [
            moved.view((B, ("T", n))) if B[1] == 1 else tape.new("labels of a chunk", (B, ("T", n)), "int64")
            for n in sizes
        ]
        total: Value | None = None
        losses = []
        for given, target in zip(logits, targets, strict=True):
            if not self.wide:
                losses.append(log_likelihood(given, target, whole=False))
            else:
                # The first chunk's is added to a number. No name keeps a chunk's loss until the next one is there.
                total = (
                    ops.shifted(wide_likelihood(given, target))
                    if total is None
                    else ops.add(total, wide_likelihood(given, target), in_place=True)
                )
        if total is None:
            joined = ops.cat(tuple(losses), (B, T), "losses")
            losses.clear()
            total = _summed(joined)
        out = tape.new("loss", total.axes, "fp32")
        axes = total.axes
        tape.record((out,), (total,), lambda g: (tape.new("gradient of sum", axes, "fp32"),), (count,))
        return out


def chunk_sizes(n: int, each: int) -> Iterator[int]:
    """Sizes of pieces of ``n``.

    >>> list(chunk_sizes(300, 128))
    [128, 128, 44]
    """
    return (min(each, n - at) for at in range(0, n, each))


def _logits(f: Forward, head: Head, x: Value) -> Value:
    """Logits by a matrix that may be packed."""
    f.tape.category = "logits"
    name = (head.alias_of or f"{head.name}.weight").removesuffix(".weight")
    out = Linear(name, (("D", head.D),), (("V", head.V),), "head", head.bias).forward(f, x)
    if head.capped:
        out = ops.scaled(out, "logits before tanh")
        out = ops.unary(out, "tanh", saves="output")
        out = ops.scaled(out, "capped logits")
    return out


def _summed(x: Value) -> Value:
    """``x.sum()``: a number, whose gradient is a view of one."""
    tape = x.tape
    out = tape.new("loss", (("X", 1),), x.dtype)
    tape.record((out,), (x,), lambda g: (g,), ())
    return out
