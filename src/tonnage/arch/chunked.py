"""Losses of the vocabulary in parts, as torchtune and Apple write them: the head and the loss in one.

References: https://github.com/pytorch/torchtune/blob/v0.6.1/ torchtune/modules/transformer.py (``chunked_output``),
torchtune/modules/loss/ce_chunked_output_loss.py, recipes/full_finetune_single_device.py (``_loss_step``);
https://github.com/apple/ml-cross-entropy/blob/d42911f/cut_cross_entropy/ cce.py, cce_backward.py, cce_lse_forward.py,
indexed_dot.py (release 25.6.4, implementation ``cce``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss, log_likelihood
from tonnage.arch.tape import Grads, Value, needs_grad
from tonnage.tensors import Axes

LOCKED: Final = 128
"""Rows that one lock of a kernel is for, and columns below: cce_lse_forward.py and cce_backward.py."""
WIDE: Final = 64


class ChunkedOutput(Loss):
    """``CEWithChunkedOutputLoss``: logits in chunks of a sequence, of which one at a time is cast to fp32.

    The log-softmax of every chunk is kept in fp32 all the same, as autograd keeps it.

    Args:
        chunks: of a sequence.
    """

    chunks: int = 8

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """Mean cross entropy of what the head would make of ``x`` (axes ``B T D``)."""
        tape = f.tape
        B, T = labels.axes
        sizes = tuple(chunk_sizes(T[1], self.chunks))
        tape.several(tape.parameter(head.alias_of or f"{head.name}.weight", (("V", head.V), ("D", head.D))))
        parts = list(ops.split(x, tuple((B, ("T", n), x.axes[2]) for n in sizes)))
        del x
        logits = []
        while parts:
            part = parts.pop(0)
            # One sequence's part is a view; rows of several are copied together.
            logits.append(head.forward(f, part if B[1] == 1 else ops.copy(part, label="hidden states of a chunk")))
            del part
        tape.often.clear()
        tape.category = "loss"
        moved = tape.new("shifted labels", labels.axes, "int64")
        counted = [tape.new("counted labels", moved.axes, "bool")]
        count = tape.new("number of labels", (("X", 1),), "int64")
        counted.clear()
        targets = [
            moved.view((B, ("T", n))) if B[1] == 1 else tape.new("labels of a chunk", (B, ("T", n)), "int64")
            for n in sizes
        ]
        total: Value | None = None
        for given, target in zip(logits, targets, strict=True):
            # The first chunk's is added to a number. No name keeps a chunk's loss until the next one is there.
            total = (
                ops.shifted(log_likelihood(ops.cast(given, "fp32"), target))
                if total is None
                else ops.add(total, log_likelihood(ops.cast(given, "fp32"), target), in_place=True)
            )
        assert total is not None
        out = tape.new("loss", total.axes, "fp32")
        axes = total.axes
        tape.record((out,), (total,), lambda g: (tape.new("gradient of sum", axes, "fp32"),), (count,))
        return out


def chunk_sizes(n: int, chunks: int) -> Iterator[int]:
    """Sizes of ``x.chunk(chunks)`` over ``n``.

    >>> list(chunk_sizes(300, 8))
    [38, 38, 38, 38, 38, 38, 38, 34]
    """
    each = -(-n // chunks)
    while n > 0:
        yield min(each, n)
        n -= each


class Cut(Loss):
    """``LinearCrossEntropyFunction`` of cut-cross-entropy: kernels that make no logits in memory.

    Labels that do not count would make it smaller: all but the first of every sequence do here.

    Args:
        wide: gradients are summed in fp32 (``cce_kahan_full_c`` and its like).
    """

    wide: bool = False

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """Mean cross entropy of what the head would make of ``x`` (axes ``B T D``)."""
        tape = f.tape
        tape.category = "loss"
        (_, B), (_, T) = labels.axes
        rows: Axes = (("X", B * (T - 1)),)
        pairs: Axes = (*rows, ("X", 2))
        held = [tape.new("labels that count", rows, "bool")]
        held = [tape.new("places of labels", pairs, "int64")]
        held = [tape.new("places of labels", pairs, "int32")]
        valid = tape.new("rows that count", rows, "int64")
        held.clear()
        weight = tape.parameter(head.alias_of or f"{head.name}.weight", (("V", head.V), ("D", head.D)))
        form = tape.autocast or x.dtype
        # In a custom function autocast's copies are its own.
        hidden = x.detached() if x.dtype == form else tape.new("hidden states cast", x.axes, form)
        kept = [hidden] if weight.dtype == form else [hidden, tape.new("weight cast", weight.axes, form)]
        lse = tape.new("logarithm of sums", rows, "fp32")
        locks = [tape.new("locks", (("X", -(-rows[0][1] // LOCKED)),), "fp32")]
        average = tape.new("average logits", (("V", head.V),), "fp32")
        locks.clear()
        terms = [tape.new("negative products", rows, "fp32")]
        if head.capped:
            terms = [tape.new("capped products", rows, "fp32")]
        loss = tape.new("loss", (("X", 1),), "fp32")
        terms.clear()
        back = self._back(x, weight.axes, form, (needs_grad(x), needs_grad(weight)), (x.dtype, weight.dtype))
        tape.record((loss,), (x, weight), back, (*kept, lse, average), custom=True)
        tape.context.append(valid)
        return loss

    def _back(
        self, x: Value, matrix: Axes, form: str, makes: tuple[bool, bool], own: tuple[str, str]
    ) -> Callable[[Value], Grads]:
        tape, axes = x.tape, x.axes
        words, width, tokens = matrix[0][1], matrix[1][1], axes[0][1] * (axes[1][1] - 1)
        summed = "fp32" if self.wide else form

        def back(g: Value) -> Grads:
            ordered = [tape.new("sorted logits", matrix[:1], "fp32"), tape.new("order", matrix[:1], "int64")]
            ordered.pop(0)
            order = tape.new("order", matrix[:1], "int32")
            ordered.clear()
            grads = [
                tape.new(name, shape, summed) if made else None
                for name, shape, made in (
                    ("gradient of hidden states", axes, makes[0]),
                    ("weight gradient", matrix, makes[1]),
                )
            ]
            locks = [
                tape.new("locks", (("X", -(-n // LOCKED)), ("X", -(-width // WIDE))), "int32")
                for n, made in ((tokens, makes[0]), (words, makes[1]))
                if made
            ]
            # The weight's is cast first.
            for i in (1, 0):
                grad = grads[i]
                if grad is not None:
                    grads[i] = None
                    grads[i] = ops.cast(grad, own[i])
                del grad
            del order, locks
            return grads[0], grads[1]

        return back
