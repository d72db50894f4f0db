"""Experts that run one after the other, and experts whose matrices are copied for every token.

Which experts tokens go to decides what a loop takes: each expert's tensors are as long as the tokens that chose it.

Leaves out: what ``nonzero`` takes for itself on a device; the sort of indices by which gradients are put together.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mixtral/modeling_mixtral.py
(``MixtralExperts.forward``, which most families have alike; ``experts_implementation="eager"``), and
src/transformers/integrations/moe.py (``batched_mm_experts_forward``)
"""

from __future__ import annotations

from typing import Any, ClassVar

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.experts import Experts, added
from tonnage.arch.forward import Forward
from tonnage.arch.inplace import onto_view
from tonnage.arch.model import Model
from tonnage.arch.routing import taken
from tonnage.arch.stacks.stated import like, restated
from tonnage.arch.tape import Grads, Parameter, Value
from tonnage.tensors import Axes


def spread(tokens: int, used: int, experts: int, imbalance: float, *, late: bool = False) -> list[int]:
    """Tokens of each expert that has any, the fullest last.

    As few experts as the fullest one's share allows have as many: at 1 all are alike, at ``experts / used`` all tokens
    go to the same ones. ``late``: one of them goes to an expert behind these, which is the first in the backward pass.

    >>> spread(100, 2, 8, 1.0), spread(100, 2, 8, 4.0), spread(100, 2, 8, 1.5)
    ([25, 25, 25, 25, 25, 25, 25, 25], [100, 100], [10, 38, 38, 38, 38, 38])
    >>> spread(100, 2, 8, 4.0, late=True)
    [99, 100, 1]
    """
    rows = tokens * used
    if imbalance <= 1:
        each, more = divmod(rows, experts)
        return [n for n in [each] * (experts - more) + [each + 1] * more if n]
    most = max(min(tokens, round(imbalance * rows / experts)), -(-rows // experts))
    whole, rest = divmod(rows, most)
    found = ([rest] if rest else []) + [most] * whole
    if late and len(found) < experts and found[0] > 1:
        found = [found[0] - 1, *found[1:], 1]
    return found


class Looped(Experts):
    """The loop over experts that have tokens (``experts_implementation="eager"``).

    Args:
        imbalance: tokens of the fullest expert over the mean.
        late: a single token goes to an expert behind the fullest.
    """

    imbalance: float = 1.0
    late: bool = False
    classes: ClassVar[int] = 1
    """Of the one-hot choices, beyond the experts."""

    def mixed(self, f: Forward, x: Value, chosen: Value, weights: Value) -> Value:
        """Zeros, to which every expert's weighed output is added."""
        tape, (B, T, D) = f.tape, x.axes
        tokens, used = B[1] * T[1], chosen.axes[-1][1]
        for t in self.routed():
            tape.several(tape.parameter(t.name, t.axes))
        # Where the shared expert runs ahead, or a matrix weighs it, the code takes tokens as rows before, for both.
        flat = x if self.shared_gate is not None or self.order == "first" else rows_of(x)
        out = tape.new("sum over experts", x.axes, x.dtype)
        mask = tape.new("chosen, one hot", (*chosen.axes, ("E", self.E + self.classes)), "int64")
        counts = tape.new("tokens of each expert", (("E", self.E + self.classes),), "int64")
        some = tape.new("experts that have tokens", (("E", self.E + self.classes),), "bool")
        del counts
        rows = spread(tokens, used, self.E, self.imbalance, late=self.late)
        hit = tape.new("experts that have tokens", (("E", len(rows)),), "int64")
        del some
        # What the turn before named lives until this one's takes its name.
        names: list[Value] = []
        for n in rows:
            # A view by expert is laid out anew to be searched.
            tape.scratch("one expert's choices", 8 * tokens * used)
            places = tape.new("places", (("N", n), ("X", 2)), "int64")
            names[:1] = [places]
            made = self._turn(f, taken(flat, places, (("N", n), D)), weights, places, names)
            out = onto(out, ops.cast(made, x.dtype), places)
            del made, places
        tape.often.clear()
        del mask, hit
        return out

    def _turn(self, f: Forward, state: Value, weights: Value, places: Value, names: list[Value]) -> Value:
        """One expert's weighed output for its tokens; ``names`` are those of the modelled code, places first."""
        tape, (N, D), F = f.tape, state.axes, ("F", self.F)
        stacks = [(tape.parameter(name, axes), axes) for name, axes, _ in self._fused()]
        names[1:2] = [state]
        both = _product(state, _one(*stacks[0]), (N, ("X", 2), F))
        gate, up = ops.split(both, ((N, F), (N, F)))
        del both, state
        names[2:4] = [gate, up]
        made = ops.mul(activate(gate, self.act), up, "gated")
        del gate, up
        names[4:] = [made]
        made = _product(made, _one(*stacks[1]), (N, D))
        names[4:] = [made]
        weight = taken(weights, places, (N,))
        made = ops.mul(made, weight.view((N, ("X", 1))), "weighed expert output")
        names[4:] = [made]
        return made


class LoopedWithBias(Looped):
    """The same as gpt-oss writes it: every product and every bias that is added makes a tensor, and names it."""

    classes: ClassVar[int] = 0

    def _turn(self, f: Forward, state: Value, weights: Value, places: Value, names: list[Value]) -> Value:
        """One expert's weighed output for its tokens."""
        tape, (N, D) = f.tape, state.axes
        stacks = [(tape.parameter(name, axes), axes) for name, axes, _ in self._fused()]
        biases = [(tape.parameter(name, axes), axes) for name, axes in self._biases()]
        names[1:2] = [state]
        one: Axes = (N, ("X", 1), ("X", 1))
        both = _product(state, _one(*stacks[0]), (*one, ("F", self.F), ("X", 2)))
        del state
        names[2:3] = [ops.add(both, _one(*biases[0]), "with bias")]
        del both
        names[3:4] = [self._gated(names[2])]
        made = _product(names[3], _one(*stacks[1]), (N, D))
        names[4:5] = [ops.add(made, _one(*biases[1]), "with bias")]
        del made
        weight = taken(weights, places, (N,))
        names[5:] = [ops.mul(names[4], weight.view((N, ("X", 1))), "weighed expert output")]
        return names[5]


class LoopedAtOnce(Looped):
    """The same as MiniMax M3 and DeepSeek-V4 write it: an expert has one name, its gate a function of its own."""

    def _turn(self, f: Forward, state: Value, weights: Value, places: Value, names: list[Value]) -> Value:
        """One expert's weighed output for its tokens."""
        tape, (N, D) = f.tape, state.axes
        stacks = [(tape.parameter(name, axes), axes) for name, axes, _ in self._fused()]
        both = _product(state, _one(*stacks[0]), (N, ("X", 1), ("X", 1), ("F", self.F), ("X", 2)))
        del state
        made = self._gated(both)
        del both
        names[1:] = [made]
        made = _product(made, _one(*stacks[1]), (N, D))
        made = ops.mul(made, taken(weights, places, (N,)).view((N, ("X", 1))), "weighed expert output")
        names[1:] = [made]
        return made


class Batched(Experts):
    """Every token by matrices of its own, copies of its experts' (``experts_implementation="batched_mm"``).

    Whatever the router chooses, it takes the same.
    """

    def mixed(self, f: Forward, x: Value, chosen: Value, weights: Value) -> Value:
        """``batched_mm_experts_forward``."""
        tape, pairs, F, D = f.tape, chosen.axes, ("F", self.F), x.axes[2]
        wide: Axes = (*pairs, F, ("X", 2))
        rows = ops.copy(x, (*pairs, D), "tokens of experts")
        stacks = [tape.parameter(name, axes) for name, axes, _ in self._fused()]
        named = taken(stacks[0], chosen, (*pairs, *stacks[0].axes[1:]))
        bias = self._bias(f, chosen, 0)
        out = self._gated(self._multiplied(rows, named, wide, bias))
        # The name passes over when the next matrices are there.
        named = taken(stacks[1], chosen, (*pairs, *stacks[1].axes[1:]))
        bias = self._bias(f, chosen, 1)
        out = self._multiplied(out, named, (*pairs, D), bias)
        weighed = ops.mul(out, weights.view((*pairs, ("X", 1))), "weighed expert output")
        return ops.cast(added(weighed, x.axes), x.dtype)

    def _multiplied(self, x: Value, matrices: Value, axes: Axes, bias: Value | None) -> Value:
        """``bmm`` of rows and their matrices, in the order in which these are stored."""
        factors = (x, matrices) if self.transposed else (matrices, x)
        out = ops.matmul(*factors, axes, "expert output")
        return out if bias is None else onto_view(out, bias)


def batched(model: Model) -> Model:
    """The model whose experts' matrices are copied for every token."""

    def block(b: Any) -> Any:
        return like(Batched, b) if isinstance(b, Experts) else b

    return restated(model, block=block, norm=lambda n: n)


def looped(model: Model, imbalance: float, *, late: bool = False) -> Model:
    """The model whose experts run one after the other."""

    def block(b: Any) -> Any:
        if not isinstance(b, Experts):
            return b
        kind = LoopedWithBias if b.bias else LoopedAtOnce if b.clamp else Looped
        return like(kind, b, imbalance=imbalance, late=late)

    return restated(model, block=block, norm=lambda n: n)


def rows_of(x: Value) -> Value:
    """A view of tokens as rows, at which the experts' gradients are added up before they meet any other.

    Where a matrix weighs a shared expert, the model's code takes the view before, for both.
    """
    flat = Value(x.storage, x.axes, x.dtype)
    x.tape.record((flat,), (x,), lambda g: (g,), ())
    return flat


def _one(stack: Parameter, axes: Axes) -> Value:
    """``stack[e]``: a view, whose gradient is one as large as the stack, filled with zeros around it."""
    tape, dtype = stack.tape, stack.dtype
    view = tape.new(f"one of {stack.name}", (("X", 0),), dtype).view(axes[1:])
    tape.record((view,), (stack,), lambda g: (tape.new("gradient of a stack", axes, dtype),), ())
    return view


def _product(x: Value, weight: Value, outs: Axes) -> Value:
    """``F.linear`` by a matrix that is a view."""
    weight, x = ops.lowered(weight), ops.lowered(x)
    tape, inner, whole, dtype = x.tape, x.axes, weight.axes, x.dtype
    out = tape.product("expert output", outs, dtype)
    flows, makes = x.node is not None, weight.node is not None

    def back(g: Value) -> Grads:
        gx = tape.product("input gradient", inner, dtype) if flows else None
        return gx, tape.product("weight gradient", whole, dtype) if makes else None

    saved = (*((x,) if makes else ()), *((weight,) if flows else ()))
    tape.record((out,), (x, weight), back, saved)
    return out


def onto(total: Value, part: Value, places: Value) -> Value:
    """``total.index_add_(0, index, part)``: in place; the part's gradient is picked from the sum's."""
    tape, axes, dtype = total.tape, part.axes, part.dtype
    out = Value(total.storage, total.axes, total.dtype)

    def back(g: Value) -> Grads:
        return g, tape.new("gradient of expert output", axes, dtype)

    # The part itself is saved for its shape.
    tape.record((out,), (total, part), back, (part, places))
    return out
