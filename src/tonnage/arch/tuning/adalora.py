"""Adapters as a singular value decomposition, as peft's own forward pass writes them.

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/adalora/layer.py (SVDLinear.forward)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Grads, Parameter, Value, needs_grad
from tonnage.arch.tuning.tuners import Beside, Frozen
from tonnage.record import Record
from tonnage.tensors import Axes

if TYPE_CHECKING:
    from tonnage.arch.layers import Linear
    from tonnage.arch.tuning.adapters import Packed


class AdaLoRA(Record):
    """Adapters as a singular value decomposition (arXiv:2303.10512): ``y + s x (A E)^T B^T``, in the frozen format.

    A term of the loss keeps both matrices orthogonal (AdaLoraModel.forward). Its own tensors, of ``rank`` squared
    elements a matrix, come and go between the loss and the gradient of the logits; its gradients stay.

    Args:
        modules: names of the adapted matrices below the layer.
        rank: that training begins with (``init_r``).
        dropout: of their input.
        dtype: their format.
    """

    modules: frozenset[str]
    rank: int
    dropout: float
    dtype: str
    early: ClassVar[tuple[str, ...]] = ("lora_A", "lora_B")

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """Both matrices and the singular values."""
        inner = ("R", self.rank)
        return ("lora_A", (inner, *ins)), ("lora_B", (*outs, inner)), ("lora_E", (inner,))

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """The rank, as a tensor."""
        return (("ranknum", (("X", 1),)),)

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen output, into which the adapter's is added in place."""
        tape, inner, dtype = x.tape, ("R", self.rank), self.dtype
        y = frozen(f, linear, x)
        a = Parameter(tape, f"{linear.name}.lora_A", (inner, *linear.ins), dtype, tape.grad)
        b = Parameter(tape, f"{linear.name}.lora_B", (*linear.outs, inner), dtype, tape.grad)
        e = Parameter(tape, f"{linear.name}.lora_E", (inner,), dtype, tape.grad)
        # The rank as a number of a tensor, and a little more.
        rank = tape.new("rank", (("X", 1),), "fp32")
        x = ops.cast(x, dtype)
        low = [_turned(ops.dropout(x, self.dropout, f.training), _times(a, e), (inner,), len(linear.ins))]
        added = [ops.linear(low.pop(), b, None, 1, linear.outs)]
        added.append(ops.scaled(added.pop()))
        added.append(_divided(added.pop(), rank))
        return ops.add(y, added.pop(), in_place=True)


def _times(a: Parameter, e: Parameter) -> Value:
    """``A * E``, both trained."""
    tape, axes, narrow, dtype = a.tape, a.axes, e.axes, a.dtype
    out = tape.new("scaled first matrix", axes, dtype)

    def back(g: Value) -> Grads:
        first = tape.new("gradient of first matrix", axes, dtype)
        second = ops.fitted(tape.new("gradient of values", axes, dtype), narrow, dtype)
        return first, second

    tape.record((out,), (a, e), back, ())
    return out


def _turned(x: Value, w: Value, outs: Axes, ins: int) -> Value:
    """``x @ w.T``, which keeps both."""
    x, w = ops.lowered(x), ops.lowered(w)
    tape, inner, form, matrix = x.tape, x.axes, x.dtype, w.axes
    out = tape.new("low product", inner[: len(inner) - ins] + outs, form)
    grad_x = needs_grad(x)

    def back(g: Value) -> Grads:
        gx = tape.new("input gradient", inner, form) if grad_x else None
        return gx, tape.new("weight gradient", matrix, form)

    tape.record((out,), (x, w), back, (x, w) if grad_x else (x,))
    return out


def _divided(x: Value, by: Value) -> Value:
    """``x / by``, of which the divisor is kept."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("divided", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of divided", axes, dtype),), (by,))
    return out
