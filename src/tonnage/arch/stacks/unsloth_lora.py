"""unsloth's functions of matrices with adapters beside them: products of queries, keys and values, of the output, and
of the feed-forward block, each with its backward pass written out.

Reference: unsloth 2026.10.9, unsloth/kernels/fast_lora.py (``LoRA_QKV``, ``LoRA_W``, ``LoRA_MLP``) and utils.py
(``matmul_lora``, ``fast_dequantize``), https://pypi.org/project/unsloth/2026.10.9/

Packed matrices are unpacked without a copy of their scales; those of the forward pass, and the one that takes a
gradient down, into one tensor that is kept for all of them (``_scratch``), where there is no dropout.
"""

from __future__ import annotations

from collections.abc import Sequence

from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear
from tonnage.arch.ops import fitted
from tonnage.arch.tape import HALF, Grads, Later, Parameter, Tape, Value
from tonnage.arch.tuning.adapters import FourBit, Tuning
from tonnage.arch.tuning.tuners import LoRA, pair
from tonnage.tensors import Axes


def fuses(f: Forward, matrices: Sequence[Linear], x: Value) -> bool:
    """Whether unsloth's functions take these matrices: adapters beside all, no bias, 16 bit throughout.

    A 4-bit matrix is of 16 bit once it is unpacked.
    """
    tuning, tape = f.tuning, f.tape
    if tuning is None or not adapted(tuning, matrices):
        return False
    if x.dtype not in HALF or tape.autocast not in (None, x.dtype):
        return False
    return tape.weights in HALF if tuning.packed is None else unpacks(tuning, matrices)


def adapted(tuning: Tuning, matrices: Sequence[Linear]) -> bool:
    """Whether all of these have a plain adapter, and none a bias."""
    method = tuning.method
    if type(method) is not LoRA or method.half:
        return False
    return not any(m.bias or m.transposed or m.name not in method.modules for m in matrices)


def unpacks(tuning: Tuning, matrices: Sequence[Linear]) -> bool:
    """Whether all of these are packed to 4 bit."""
    return isinstance(tuning.packed, FourBit) and all(m.name in tuning.packed.modules for m in matrices)


def shares_scratch(tuning: Tuning) -> bool:
    """Whether the forward pass unpacks matrices into what is kept for all of them."""
    return isinstance(tuning.method, LoRA) and not tuning.method.dropout


class _Matrix:
    """One matrix and its adapter as a function takes them.

    Args:
        f: the pass.
        linear: the frozen matrix.
        form: format that products are computed in.
        rows: axes of the tokens.
    """

    def __init__(self, f: Forward, linear: Linear, form: str, rows: Axes) -> None:
        tuning = f.tuning
        assert tuning is not None
        assert isinstance(tuning.method, LoRA)
        method: LoRA = tuning.method
        self.tape: Tape = f.tape
        self.linear, self.form, self.rows = linear, form, rows
        self.packed = tuning.packed is not None
        self.inner: Axes = (("R", method.rank),)
        self.a, self.b = pair(f, linear, method.rank, method.dtype)
        self.drops = method.dropout if f.training else 0.0
        self.shares = shares_scratch(tuning)

    def unpacked(self) -> Value | None:
        """The frozen matrix in 16 bit, in a tensor of its own."""
        return self.tape.new("unpacked matrix", self.linear.outs + self.linear.ins, self.form) if self.packed else None

    def cast(self, weight: Parameter) -> Value | None:
        """One of the adapter's matrices in the format of the product."""
        return None if weight.dtype == self.form else self.tape.new("adapter cast", weight.axes, self.form)

    def low(self) -> Value:
        """What the adapter makes of the tokens between its two matrices."""
        return self.tape.product("adapter's inner product", self.rows + self.inner, self.form)

    def dropped(self, x: Value) -> tuple[Value, Value | None]:
        """``native_dropout``, if there is any: what is left, and the mask."""
        if not self.drops:
            return x, None
        out = self.tape.new("dropped out", x.axes, self.form)
        return out, self.tape.new("dropout mask", x.axes, "bool")

    def ahead(self, x: Value) -> Value:
        """``matmul_lora``: the product, into which the adapter's is added."""
        matrix = None if self.shares else self.unpacked()
        out = self.tape.product(f"{self.linear.name} output", self.rows + self.linear.outs, self.form)
        del matrix
        first = self.cast(self.a)
        low = self.low()
        del first
        second = self.cast(self.b)
        del low, second
        return out

    def again(self, mask: Value | None, x: Axes) -> Value | None:
        """What dropout left of what the matrix was given, made again from the mask."""
        return None if mask is None else self.tape.new("dropped out again", x, self.form)

    def masked(self, x: Axes, mask: Value | None) -> None:
        """``_add_lora_dX``: nothing without a mask; with one, the adapter's own gradient and what is let through."""
        if mask is not None:
            own = self.tape.product("adapter's gradient", x, self.form)
            through = self.tape.new("adapter's gradient, dropped out", x, self.form)
            del own, through

    def into(self, x: Axes, mask: Value | None) -> None:
        """A gradient of the input that is added into what is there."""
        matrix = self.unpacked()
        del matrix
        self.masked(x, mask)


def _casts(matrices: Sequence[_Matrix]) -> list[Value | None]:
    """All adapters in the format of the products, as the frame of a backward pass names them to its end."""
    return [m.cast(w) for m in matrices for w in (m.a, m.b)]


def _handed(matrices: Sequence[_Matrix], grads: list[Value]) -> list[Value | Later | None]:
    """The gradients in the order of the matrices, which the engine casts to the adapters' format."""
    weights = [w for m in matrices for w in (m.a, m.b)]
    out = [fitted(g, w.axes, w.dtype) for g, w in zip(grads, weights, strict=True)]
    grads.clear()
    return out


def _gradients(matrices: Sequence[_Matrix]) -> list[Value]:
    return [m.tape.new("adapter's gradient", w.axes, m.form) for m in matrices for w in (m.a, m.b)]


def attention_inputs(f: Forward, matrices: Sequence[Linear], x: Value) -> tuple[Value, Value, Value]:
    """``LoRA_QKV``: keeps what it was given, over which the gradient of it is written."""
    axes = x.axes
    found = [_Matrix(f, m, x.dtype, axes[:2]) for m in matrices]
    outs, masks, dropped = list[Value](), list[Value | None](), x
    for m in found:
        dropped, mask = m.dropped(x)
        masks.append(mask)
        outs.append(m.ahead(dropped))
    del dropped
    kept = x.detached()

    def back(*_: Value) -> Grads:
        casts, grads = _casts(found), _gradients(found)
        lows, dropped = [m.low() for m in found], None
        for m, mask in zip(found, masks, strict=True):
            dropped = m.again(mask, axes)
            m.low()
        del dropped
        for m, mask in zip(found, masks, strict=True):
            m.into(axes, mask)
        kept.storage.viewed = True
        lows.clear()
        casts.clear()
        return (kept, *_handed(found, grads))

    weights = [w for m in found for w in (m.a, m.b)]
    f.tape.record(tuple(outs), (x, *weights), back, (kept, *(m for m in masks if m is not None)), custom=True)
    return outs[0], outs[1], outs[2]


def single(f: Forward, linear: Linear, x: Value) -> Value:
    """``LoRA_W``: keeps what it was given; the gradient of it is a tensor of its own."""
    tape, axes = f.tape, x.axes
    m = _Matrix(f, linear, x.dtype, axes[:2])
    dropped, mask = m.dropped(x)
    out = m.ahead(dropped)
    del dropped

    def back(_: Value) -> Grads:
        casts, grads = _casts([m]), _gradients([m])
        low = m.low()
        dropped = m.again(mask, axes)
        m.low()
        del dropped
        matrix = m.unpacked()
        grad = tape.product("input gradient", axes, m.form)
        del matrix
        m.masked(axes, mask)
        grad.storage.viewed = True
        casts.clear()
        del low
        return (grad, *_handed([m], grads))

    tape.record((out,), (x, m.a, m.b), back, (x, *((mask,) if mask is not None else ())), custom=True)
    return out


def feed_forward(f: Forward, matrices: Sequence[Linear], x: Value) -> Value:
    """``LoRA_MLP``: keeps what it was given, gate and up; their gradients are written over them."""
    tape, axes = f.tape, x.axes
    found = [_Matrix(f, m, x.dtype, axes[:2]) for m in matrices]
    gate, up, down = found
    dropped, gate_mask = gate.dropped(x)
    e = gate.ahead(dropped)
    dropped, up_mask = up.dropped(x)
    g = up.ahead(dropped)
    del dropped
    h = tape.new("gated", e.axes, e.dtype)
    narrowed, down_mask = down.dropped(h)
    out = down.ahead(narrowed)
    inner, kept = e.axes, (x.detached(), e.detached(), g.detached())
    del e, g, h, narrowed

    def back(_: Value) -> Grads:
        casts = _casts(found)
        matrix = None if down.shares else down.unpacked()
        wide = tape.product("gradient of gated", inner, down.form)
        del matrix
        if down_mask is None:
            down.low()
        down.masked(inner, down_mask)
        # The kernel writes what is gated over this gradient, and gradients of gate and up over these.
        gated = down.again(down_mask, inner)
        grads = _gradients(found)
        down.low()
        down.low()
        lows = [up.low(), gate.low()]
        dropped = None
        for m, mask in ((up, up_mask), (gate, gate_mask)):
            dropped = m.again(mask, axes)
            m.low()
        del dropped
        up.into(axes, up_mask)
        gate.into(axes, gate_mask)
        kept[0].storage.viewed = True
        lows.clear()
        casts.clear()
        del wide, gated
        return (kept[0], *_handed(found, grads))

    masks = tuple(m for m in (gate_mask, up_mask, down_mask) if m is not None)
    weights = [w for m in found for w in (m.a, m.b)]
    tape.record((out,), (x, *weights), back, (*kept, *masks), custom=True)
    return out
