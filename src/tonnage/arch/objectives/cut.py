"""Apple's loss of the vocabulary: the head and the loss in kernels that make no logits in memory.

Reference: https://github.com/apple/ml-cross-entropy/blob/d42911f/cut_cross_entropy/ cce.py, cce_backward.py,
cce_lse_forward.py, indexed_dot.py (release 25.6.4, implementation ``cce``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss
from tonnage.arch.tape import Grads, Value, needs_grad
from tonnage.tensors import Axes

LOCKED: Final = 128
"""Rows that one lock of a kernel is for, and columns below: cce_lse_forward.py and cce_backward.py."""
WIDE: Final = 64


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
