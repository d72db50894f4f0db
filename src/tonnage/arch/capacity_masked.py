"""NLLB-MoE's experts, as transformers 5 runs them: what a router hands on as a mask is taken for numbers of experts.

The router chooses two experts a token and drops what is over an expert's capacity; it returns the first choices one
hot, as whole numbers. The experts make these one hot once more, so that a 0 stands for expert 0 and a 1 for expert 1:
the first runs for every token as often as there are experts that it is not sent to, the second once for every token
that is sent, and no other expert runs.

Leaves out: what ``nonzero`` takes for itself on a device; the sort of indices by which gradients are put together.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/nllb_moe/
modeling_nllb_moe.py (NllbMoeTop2Router, NllbMoeExperts, NllbMoeSparseMLP)
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.capacity import Capped
from tonnage.arch.experts_loop import rows_of
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Grads, Value
from tonnage.tensors import Axes


class Masked(Capped):
    """The same blocks with ``capacity`` tokens of all sequences for each expert."""

    @property
    def used(self) -> int:
        """Experts of a token, as the paper has them."""
        return min(2, self.E)

    def hit(self, sequences: int, tokens: int) -> list[tuple[int, int]]:
        """Experts 0 and 1, with how often tokens go through them."""
        every = sequences * tokens
        sent = sum(self.shares.counts(1, every, self.E, self.capacity)[0])
        return [(e, n) for e, n in ((0, every * self.E - sent), (1, sent)) if n]

    def forward(self, f: Forward, x: Value) -> Value:
        """Every token through the experts that the mask is taken for."""
        B, T, _ = x.axes
        flat = rows_of(x)
        choices, weights, logits = self._masks(f, flat)
        out = self.through(f, flat, choices, weights, self.hit(B[1], T[1]), wide=self.E)
        del logits
        return out

    def _masks(self, f: Forward, x: Value) -> tuple[Value, Value, Value]:
        """First choices with room, one hot; the weights of both; the logits."""
        tape, rows = f.tape, x.axes[:2]
        whole: Axes = (*rows, ("E", self.E))

        def choices(label: str) -> Value:
            return tape.new(label, whole, "int64")

        before, x = x.dtype, ops.cast(x, self.router_dtype)
        logits = self.logits(f, x)
        scores = ops.cast(ops.softmax(logits, dtype=self.router_dtype, label="routing scores"), before)
        names = [tape.new("first experts", rows, "int64"), tape.new("second experts", rows, "int64")]
        first = choices("first, one hot")
        # Its node holds what it was filled by as long as the rest has a name.
        names += [tape.new("first, as a mask", whole, "bool"), tape.new("logits of the rest", whole, logits.dtype)]
        second = choices("second, one hot")
        padding = f.masks.get(None)
        if padding is not None:
            names += self._padded(f, padding, rows)
            first = choices("first that are no padding")
            second = choices("second that are no padding")
        for label in ("first", "second"):
            order = choices(f"order of {label} choices")
            names.append(choices(f"order of {label} choices, from 0"))
            del order
        first, second = self._within(f, first), self._within(f, second)
        weights = self._normalised(f, scores, (first, second))
        gates = [_times(w.view((*rows, ("X", 1))), m, whole) for w, m in zip(weights, (first, second), strict=True)]
        scores = ops.add(gates[0], gates[1], "weights by expert")
        names.clear()
        return first, scores, logits

    @staticmethod
    def _padded(f: Forward, padding: Value, rows: Axes) -> list[Value]:
        """The last row of a causal mask, laid out, and what of it is no padding."""
        copied = [f.tape.new("last row of the mask", rows, padding.dtype)] if rows[0][1] > 1 else []
        there = f.tape.new("padding", rows, "bool")
        found = [*copied, f.tape.new("no padding", rows, "bool")]
        del there
        return found

    def _within(self, f: Forward, mask: Value) -> Value:
        fits = f.tape.new("within the capacity", mask.axes, "bool")
        found = f.tape.new("chosen and within the capacity", mask.axes, "int64")
        del fits
        return found

    @staticmethod
    def _normalised(f: Forward, scores: Value, masks: tuple[Value, Value]) -> tuple[Value, Value]:
        """Both choices' probabilities over their sum."""
        rows = scores.axes[:2]
        first, second = (_summed(_times(scores, m, scores.axes), rows) for m in masks)
        total = ops.unary(ops.add(first, second, "sum of weights"), "clamp")
        return _over(first, total), _over(second, total)

    def searched(self, f: Forward, choices: Value) -> Value | None:
        """The mask one hot, as if it were of numbers of experts."""
        return f.tape.new("mask, one hot", (*choices.axes, ("X", self.E)), "int64")


def _times(x: Value, mask: Value, axes: Axes) -> Value:
    """``x * mask`` by whole numbers, which alone are saved; ``x`` may be of fewer elements."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("masked", axes, dtype)

    def back(g: Value) -> Grads:
        return (ops.fitted(tape.new("gradient of masked", axes, dtype), before, dtype),)

    tape.record((out,), (x,), back, (mask,))
    return out


def _summed(x: Value, axes: Axes) -> Value:
    """``x.sum(dim=1)``: its gradient is a view of one as many."""
    tape = x.tape
    out = tape.new("sum", axes, x.dtype)
    tape.record((out,), (x,), lambda g: (g,), ())
    return out


def _over(x: Value, y: Value) -> Value:
    """``x / y``: both are saved."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("quotient", axes, dtype)

    def back(g: Value) -> Grads:
        gx = tape.new("gradient of quotient", axes, dtype)
        return gx, tape.new("gradient of divisor", axes, dtype)

    tape.record((out,), (x, y), back, (x, y))
    return out
