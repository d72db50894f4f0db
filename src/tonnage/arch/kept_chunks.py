"""Head and loss by chunks of tokens whose logits are all kept: torchtune's and litgpt's.

References: https://github.com/pytorch/torchtune/blob/v0.6.1/torchtune/modules/ (transformer.py ``chunked_output``,
loss/ce_chunked_output_loss.py), main of 2026-04 for loss/cross_entropy_loss.py (``LinearCrossEntropyLoss``);
https://github.com/Lightning-AI/litgpt/blob/v0.5.13/litgpt/ (model.py ``lm_head_chunk_size``, utils.py
``chunked_cross_entropy``)
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear
from tonnage.arch.loss import Loss, log_likelihood
from tonnage.arch.tape import Value
from tonnage.tensors import Axes


class Chunked(Loss):
    """Logits in chunks; each goes through the loss by itself, and its log-softmax is kept.

    Args:
        chunks: number of chunks along the sequence; 0 where ``tokens`` tells.
        tokens: of a chunk.
        wide: logits are cast to fp32 before the loss.
        widened: all of them are, as the model's output, before any loss is made.
        apart: a chunk's logits are made when its loss is, and let go of then; else all of them come first and keep
            their names.
        names: the caller keeps the logits' names through the backward pass.
        before: the loop still names the logits of the pass before, until these are there.
        pads: the labels are moved by one in a copy with a column behind it.
    """

    chunks: int = 0
    tokens: int = 0
    wide: bool = False
    widened: bool = False
    apart: bool = False
    names: bool = False
    before: bool = False
    pads: bool = False

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """Mean cross entropy of what the head would make of ``x`` (axes ``B T D``)."""
        tape = f.tape
        tape.category = "loss"
        B, T, D = x.axes
        moved = tape.new("labels, moved by one", labels.axes, "int64") if self.pads else labels
        sizes = self._sizes(T[1])
        made: list[Value] = []
        tape.category = "logits"
        form = "fp32" if self.widened else tape.autocast or x.dtype
        old = [tape.new("logits of the last pass", (B, ("T", n), ("V", head.V)), form) for n in sizes if self.before]
        tape.category = "loss"
        parts = list(ops.split(x, tuple((B, ("T", n), D) for n in sizes))) if len(sizes) > 1 else [x]
        if not self.apart:
            made = [_logits(f, head, part) for part in parts]
        if self.widened:
            made = [ops.cast(logits, "fp32") for logits in made]
        old.clear()
        losses = []
        total: Value | None = None
        for i, n in enumerate(sizes):
            target = tape.new("labels of a chunk", (B, ("T", n)), "int64") if B[1] > 1 else moved
            logits = _logits(f, head, parts[i]) if self.apart else made[i]
            scores = ops.cast(logits, "fp32") if self.wide else logits
            del logits
            tape.category = "loss"
            loss = log_likelihood(scores, target, whole=self.wide)
            del scores, target
            if self.wide:
                total = loss if total is None else ops.add(total, loss, "loss")
            else:
                losses.append(loss)
            del loss
        if self.names:
            f.logits += made
        del made, parts
        if total is None:
            joined = ops.cat(tuple(losses), (B, T), "losses")
            losses.clear()
            total = _summed(joined)
        return ops.scaled(total, "loss")

    def _sizes(self, T: int) -> list[int]:
        """Tokens of every chunk, as ``tensor_split`` and ``split`` cut them."""
        if self.chunks:
            whole, more = divmod(T, self.chunks)
            return [n for i in range(self.chunks) if (n := whole + (i < more))]
        return [min(self.tokens, T - start) for start in range(0, T, self.tokens)]


def _logits(f: Forward, head: Head, x: Value) -> Value:
    f.tape.category = "logits"
    D: Axes = (("D", head.D),)
    V: Axes = (("V", head.V),)
    name = (head.alias_of or f"{head.name}.weight").removesuffix(".weight")
    out = Linear(name, D, V, "head", head.bias).forward(f, x)
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
