"""Experts that all see every token, weighed by a score that is zero where the router did not choose them (Llama 4).

Every token is copied for every expert: the products are as large as if all were used.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/llama4/modeling_llama4.py
(Llama4Router, Llama4TextExperts, Llama4TextMoe).
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.experts import Experts
from tonnage.arch.forward import Forward
from tonnage.arch.reductions import scratch
from tonnage.arch.routing import highest
from tonnage.arch.tape import Grads, Parameter, Value, needs_grad
from tonnage.errors import ConfigError
from tonnage.tensors import Axes, size


class DenseExperts(Experts):
    """Such experts, behind which the shared one runs, into whose output theirs is added."""

    def forward(self, f: Forward, x: Value) -> Value:
        """Every token through all experts and the shared one."""
        assert self.shared is not None
        if self.used is None:
            raise ConfigError("num_experts_per_tok is missing", key="num_experts_per_tok")
        B, T, D = x.axes
        rows: Axes = (("T", B[1] * T[1]), D)
        flat = x.view(rows)
        scores, logits = self._scores(f, flat, self.used)
        given = _for_each(flat, self.E)
        given = ops.mul(given, _by_expert(scores), "weighed tokens")
        made = self._products(f, given)
        out = self.shared.forward(f, flat)
        out = ops.add(out, _summed(made, rows), in_place=True)
        # The names of attention's weights and of the logits are one.
        f.weights.clear()
        f.held.append(logits)
        return out.view(x.axes)

    def _scores(self, f: Forward, x: Value, used: int) -> tuple[Value, Value]:
        """Of every expert, and the logits. The sigmoid of what is minus infinity is zero."""
        logits = self.scores().forward(f, x)
        best, chosen = highest(logits, (x.axes[0], ("X", used)))
        scores = _scattered(best, chosen, logits)
        scores = ops.cast(ops.unary(ops.cast(scores, "fp32"), "sigmoid", saves="output"), scores.dtype)
        return scores, logits

    def _products(self, f: Forward, x: Value) -> Value:
        (first, both, _), (second, back, _) = self._fused()
        x = _product(x, f.tape.parameter(first, both), (*x.axes[:2], ("X", 2), ("F", self.F)))
        half: Axes = (*x.axes[:2], ("F", self.F))
        gate, up = ops.split(x, (half, half))
        return _product(
            ops.mul(up, activate(gate, self.act), "gated"), f.tape.parameter(second, back), (*x.axes[:2], ("D", self.D))
        )


def _scattered(x: Value, indices: Value, like: Value) -> Value:
    """``torch.full_like(like, -inf).scatter_(1, indices, x)``: saves the indices."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("scores", like.axes, like.dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of scattered", before, dtype),), (indices,))
    return out


def _for_each(x: Value, experts: int) -> Value:
    """``x.repeat(experts, 1)``: a copy for each, whose gradients are summed."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("tokens for every expert", (("E", experts), *before), dtype)
    tape.record((out,), (x,), lambda g: (ops.summed(g, "summed over experts", before),), ())
    return out


def _by_expert(x: Value) -> Value:
    """``x.transpose(0, 1).reshape(-1, 1)``: a copy where there are several of both."""
    (_, T), (_, E) = x.axes
    axes: Axes = (("E", E), ("T", T), ("X", 1))
    return x.view(axes) if 1 in (T, E) else ops.copy(x, axes, "scores by expert")


def _product(x: Value, weight: Parameter, axes: Axes) -> Value:
    """``torch.bmm``: a matrix of its own for each expert's tokens."""
    # Arguments are evaluated from the last to the first.
    right = ops.lowered_weight(weight)
    left = ops.lowered(x)
    tape, dtype, before, whole = x.tape, left.dtype, left.axes, right.axes
    out = tape.product(f"{weight.name} output", axes, dtype)
    flows, trained = needs_grad(left), needs_grad(right)

    def back(_: Value) -> Grads:
        gw = tape.product("weight gradient", whole, dtype) if trained else None
        return tape.product("input gradient", before, dtype) if flows else None, gw

    saved = (*((left,) if trained else ()), *((right,) if flows and isinstance(right, Value) else ()))
    tape.record((out,), (left, right), back, saved, keeps_weight=flows and isinstance(right, Parameter))
    return out


def _summed(x: Value, axes: Axes) -> Value:
    """``x.reshape(experts, -1, D).sum(0)``, which autocast runs in fp32: what comes back is repeated in a copy."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("sum over experts", axes, dtype if tape.autocast is None else "fp32")
    tape.scratch("partial sums", *scratch(size(before) // size(axes), size(axes)))
    repeated = size(before) != size(axes)

    def back(g: Value) -> Grads:
        return (tape.new("gradient, repeated", before, dtype) if repeated else g.view(before),)

    tape.record((out,), (x,), back, ())
    return out
