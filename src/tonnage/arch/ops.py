"""The operations that forward passes are written in, each with what autograd saves of it and what its backward takes.

Every function does to sizes what the torch operation of the same name does to storages. ``x`` is a ``Value``; weights
are ``Parameter``s. Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/ tools/autograd/derivatives.yaml and
torch/csrc/autograd/FunctionsManual.cpp.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.reductions import scratch
from tonnage.arch.tape import HALF, WIDTH, Back, Grads, Later, Parameter, Source, Tape, Value, needs_grad
from tonnage.tensors import Axes, size


def promoted(a: str, b: str) -> str:
    """The wider of two floating formats, as torch promotes them: two of 16 bit that differ become fp32."""
    if a != b and a in HALF and b in HALF:
        return "fp32"
    return a if WIDTH[a] >= WIDTH[b] else b


def cast(x: Value, dtype: str, label: str = "") -> Value:
    """``x.to(dtype)``: nothing when it has that format already."""
    if x.dtype == dtype:
        return x
    tape, axes, before = x.tape, x.axes, x.dtype
    out = tape.new(label or f"cast to {dtype}", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new(f"cast gradient to {before}", axes, before),), ())
    return out


LEAF: Final = "leaf"  # Where autocast keeps the copy of a tensor that is no weight.


def lowered(x: Value) -> Value:
    """What autocast does to an operand of a matrix product: a copy, which it keeps if autograd accumulates into it."""
    tape, autocast = x.tape, x.tape.autocast
    if autocast is None:
        return x
    if x.storage is not tape.accumulates or x.dtype != "fp32" or x.axes != x.storage.axes:
        return cast(x, autocast)
    if LEAF not in tape.casts:
        tape.casts[LEAF] = cast(x, autocast)
    return tape.casts[LEAF]


def lowered_weight(weight: Parameter) -> Value | Parameter:
    """The weight as a matrix product takes it: under autocast a cached 16-bit copy."""
    tape = weight.tape
    if tape.autocast is None or weight.dtype == tape.autocast:
        return weight
    held = tape.casts.get(weight.name)
    if held is None:
        axes, before = weight.axes, weight.dtype
        held = tape.new(f"{weight.name} cast", axes, tape.autocast)
        tape.record((held,), (weight,), lambda g: (tape.new("cast weight gradient", axes, before),), ())
        # Autocast caches copies of leaves that are trained, and of no others.
        if weight.trained:
            tape.casts[weight.name] = held
    return held


def linear(x: Value, weight: Parameter, bias: Parameter | None, ins: int, outs: Axes) -> Value:
    """``F.linear``: the last ``ins`` axes of ``x`` are contracted and ``outs`` take their place."""
    tape = x.tape
    if x.laid == "across" or (x.laid and tape.autocast in (None, x.dtype) and x.axes[0][1] > 1):
        # Imported late: most rows lie one behind the other.
        from tonnage.arch.apart import linear as of_apart

        return of_apart(x, weight, bias, outs)
    # Autocast's casts are made as the compiler evaluates the call's arguments: from the last to the first.
    b = None if bias is None else lowered_weight(bias)
    w = lowered_weight(weight)
    # The caller's frame holds what it was given until the product is there.
    given, x = x, lowered(x)
    rows, inner, form = x.axes[: len(x.axes) - ins], x.axes, x.dtype

    def make() -> tuple[Value, ...]:
        return (tape.product(f"{weight.name} output", rows + outs, form),)

    (out,) = tape.results("mm" if bias is None else "addmm", make)
    grad_x, grad_w, grad_b = needs_grad(x), needs_grad(w), needs_grad(b)
    weight_axes = weight.axes

    def weight_gradient() -> Value | None:
        if not grad_w:
            return None
        gw = tape.product("weight gradient", weight_axes, form)
        gw.storage.viewed = True
        return gw

    def bias_gradient() -> Value:
        grad = tape.new("bias gradient", outs, form)
        tape.scratch("partial sums", *scratch(size(rows), size(outs)))
        return grad

    def back(g: Value) -> Grads:
        # ``addmm``'s operands are in the order of their names as ``mm``'s are, where the weight's comes first.
        gw = weight_gradient() if bias is None else None
        gx = tape.product("input gradient", inner, form) if grad_x else None
        if gx is not None:
            gx.storage.viewed = len(rows) > 1  # The product is of rows: a view gives back batch and tokens.
        if bias is not None:
            gw = weight_gradient()
        if not grad_b:
            return gx, gw, None
        return gx, gw, bias_gradient

    saved = (x,) if grad_w else ()
    if isinstance(w, Value) and grad_x:
        saved = (*saved, w)
    frozen = grad_x and isinstance(w, Parameter)
    tape.record((out,), (x, w, b), back, saved, weights_first=bias is not None, flat=True, keeps_weight=frozen)
    del given
    return out


def fitted(g: Value | None, axes: Axes, dtype: str) -> Value | Later | None:
    """What the engine makes of a gradient once its node is done: the operand's shape first, then its format."""
    if g is None or (size(axes) == size(g.axes) and dtype == g.dtype):
        return g

    def fit() -> Value:
        return to(g if size(axes) == size(g.axes) else summed(g, f"{g.storage.label}, summed", axes), dtype)

    return fit


def summed(g: Value, label: str, axes: Axes) -> Value:
    """``g`` summed to ``axes``. Over rows that lie one behind the other, blocks leave partial sums for the last one."""
    made = g.tape.new(label, axes, g.dtype)
    if g.axes[-len(axes) :] == axes and not g.storage.by_heads:
        g.tape.scratch("partial sums", *scratch(size(g.axes) // size(axes), size(axes)))
    return made


def mul(a: Value | Parameter, b: Value | Parameter, label: str = "product", *, axes: Axes | None = None) -> Value:
    """``a * b``, one broadcast to the other, or both to ``axes``."""
    tape = a.tape
    dtype = promoted(a.dtype, b.dtype)
    axes_a, axes_b, dtype_a, dtype_b = a.axes, b.axes, a.dtype, b.dtype
    whole = axes or (axes_a if size(axes_a) >= size(axes_b) else axes_b)
    out = tape.new(label, whole, dtype)
    grad_a, grad_b = needs_grad(a), needs_grad(b)

    def back(g: Value) -> Grads:
        gb = tape.new("gradient of product", whole, dtype) if grad_b else None
        ga = tape.new("gradient of product", whole, dtype) if grad_a else None
        return fitted(ga, axes_a, dtype_a), fitted(gb, axes_b, dtype_b)

    saved: tuple[Value, ...] = (b,) if grad_a and isinstance(b, Value) else ()
    if grad_b and isinstance(a, Value):
        saved = (a, *saved)
    weighs = (grad_a and isinstance(b, Parameter)) or (grad_b and isinstance(a, Parameter))
    tape.record((out,), (a, b), back, saved, keeps_weight=weighs)
    return out


def cast_weight(weight: Parameter, dtype: str) -> Value:
    """``weight.float()``: a copy of a small weight."""
    tape, axes, before = weight.tape, weight.axes, weight.dtype
    out = tape.new("weight cast", axes, dtype)
    if before != dtype:
        tape.record((out,), (weight,), lambda g: (tape.new("cast weight gradient", axes, before),), ())
    return out


def weight_in(weight: Parameter, dtype: str) -> Value | Parameter:
    """``weight.to(dtype)``: the weight itself where it has that format already."""
    return weight if weight.dtype == dtype else cast_weight(weight, dtype)


def to(g: Value, dtype: str) -> Value:
    """A gradient in the format of its tensor."""
    return g if g.dtype == dtype else g.tape.new(f"gradient to {dtype}", g.axes, dtype)


def add(a: Value, b: Value | Parameter, label: str = "sum", *, in_place: bool = False) -> Value:
    """``a + b``: saves nothing, and hands one gradient to both. ``in_place`` is ``a += b``."""
    tape = a.tape
    dtype = promoted(a.dtype, b.dtype)
    axes_a, axes_b, dtype_a, dtype_b = a.axes, b.axes, a.dtype, b.dtype
    whole = axes_a if size(axes_a) >= size(axes_b) else axes_b
    out = Value(a.storage, axes_a, dtype_a) if in_place else tape.new(label, whole, dtype)
    grad_a, grad_b = needs_grad(a), needs_grad(b)

    def share(g: Value, axes: Axes, own: str) -> Value:
        if size(axes) != size(whole):
            g = summed(g, "gradient of sum, summed", axes)
        return to(g, own) if g.dtype != own else g.view(axes)

    def back(g: Value) -> Grads:
        return share(g, axes_a, dtype_a) if grad_a else None, share(g, axes_b, dtype_b) if grad_b else None

    tape.record((out,), (a, b), back, ())
    return out


def sub(a: Value, b: Value, label: str = "difference", *, axes: Axes | None = None) -> Value:
    """``a - b``, both broadcast to ``axes``: saves nothing; the second operand's gradient is a tensor of its own."""
    tape = a.tape
    dtype = promoted(a.dtype, b.dtype)
    axes_a, axes_b, dtype_a, dtype_b = a.axes, b.axes, a.dtype, b.dtype
    whole = axes or axes_a
    out = tape.new(label, whole, dtype)
    grad_a, grad_b = needs_grad(a), needs_grad(b)

    def back(g: Value) -> Grads:
        gb = fitted(tape.new("negated gradient", whole, dtype), axes_b, dtype_b) if grad_b else None
        g = g.view(axes_a) if size(axes_a) == size(whole) else g
        return fitted(g, axes_a, dtype_a) if grad_a else None, gb

    tape.record((out,), (a, b), back, ())
    return out


def scaled(x: Value, label: str = "scaled", *, in_place: bool = False) -> Value:
    """``x * 0.5`` and the like: by a number, so nothing is saved. ``in_place`` is ``x *= 0.5``."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = Value(x.storage, axes, dtype) if in_place else tape.new(label, axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of scaled", axes, dtype),), ())
    return out


def shifted(x: Value | Parameter, label: str = "shifted") -> Value:
    """``x + eps``: by a number, so its gradient passes through."""
    tape = x.tape
    out = tape.new(label, x.axes, x.dtype)
    tape.record((out,), (x,), lambda g: (g,), ())
    return out


def power(x: Value, label: str = "power") -> Value:
    """``x.pow(n)``: saves its input; the backward takes the power below it, its multiple and the product at once."""
    x = raised(x)
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new(label, axes, dtype)

    def back(g: Value) -> Grads:
        lower = tape.new("lower power", axes, dtype)
        multiple = tape.new("multiple of power", axes, dtype)
        grad = tape.new("gradient of power", axes, dtype)
        del lower, multiple
        return (grad,)

    tape.record((out,), (x,), back, (x,))
    return out


def raised(x: Value) -> Value:
    """What autocast does to the operand of an operation that it runs in fp32."""
    return cast(x, "fp32") if x.tape.autocast is not None and x.dtype in HALF else x


def mean(x: Value) -> Value:
    """``x.mean(-1, keepdim=True)``."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("mean", axes[:-1], dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of mean", axes, dtype),), ())
    return out


def rsqrt(x: Value) -> Value:
    """``torch.rsqrt``: saves its result."""
    x = raised(x)
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("rsqrt", axes, dtype)

    def back(g: Value) -> Grads:
        half = tape.new("scaled gradient", axes, dtype)
        cube = tape.new("cubed", axes, dtype)
        grad = tape.new("gradient of rsqrt", axes, dtype)
        del half, cube
        return (grad,)

    tape.record((out,), (x,), back, (out,))
    return out


def unary(x: Value | Parameter, name: str, *, saves: str = "input", dtype: str | None = None) -> Value:
    """An activation function with a kernel of its own: ``saves`` is "input" (silu, gelu) or "output" (relu, tanh)."""
    tape, axes, form = x.tape, x.axes, x.dtype
    out = tape.new(name, axes, form)
    saved = x if saves == "input" and isinstance(x, Value) else out
    tape.record((out,), (x,), lambda g: (tape.new(f"gradient of {name}", axes, form),), (saved,))
    return out


def layer_norm(x: Value, weight: Source, bias: Source, *, apart: bool = False) -> Value:
    """``F.layer_norm``: saves its input, and mean and reciprocal deviation of every row in fp32.

    Autocast runs it in fp32, and casts weights in 16 bit as well, unless it stands ``apart`` from autocast.
    """
    x = x if apart else raised(x)
    tape, axes, dtype = x.tape, x.axes, x.dtype
    w, b = (weight, bias) if apart else (_raised_weight(tape, weight), _raised_weight(tape, bias))
    out = tape.new("layer norm", axes, dtype)
    average = tape.new("layer norm mean", axes[:-1], "fp32")
    deviation = tape.new("layer norm rstd", axes[:-1], "fp32")
    last = axes[-1:]
    grad_x, grad_w, grad_b = needs_grad(x), needs_grad(w), needs_grad(b)

    def back(g: Value) -> Grads:
        gx = tape.new("gradient of layer norm", axes, dtype) if grad_x else None
        gw = tape.new("gradient of norm weight", last, dtype) if grad_w else None
        gb = tape.new("gradient of norm bias", last, dtype) if grad_b else None
        return gx, gw, gb

    casts = tuple(v for v in (w, b) if isinstance(v, Value))
    tape.record((out,), (x, w, b), back, (x, *casts, average, deviation))
    return out


def _raised_weight(tape: Tape, weight: Source) -> Source:
    """What autocast does to a weight of an operation that it runs in fp32."""
    if not isinstance(weight, Parameter) or tape.autocast is None or weight.dtype not in HALF:
        return weight
    return cast_weight(weight, "fp32")


def softmax(x: Value, *, dtype: str | None = None, label: str = "softmax") -> Value:
    """``F.softmax(x, -1, dtype)``: casts first where asked, and saves its result."""
    if (x.dtype, dtype) != ("fp16", "fp32"):
        x = cast(x, dtype) if dtype is not None else raised(x)
    # CUDA's kernel reads fp16 and writes fp32 by itself (SoftMax.cpp, half_to_float); bf16 is cast before.
    tape, axes, form = x.tape, x.axes, x.dtype
    (out,) = tape.results("softmax", lambda: (tape.new(label, axes, dtype or form),))
    tape.record((out,), (x,), softmax_back(tape, axes, form, out.dtype, label), (out,))
    return out


def softmax_back(tape: Tape, axes: Axes, form: str, made: str, label: str) -> Back:
    """The gradient, and the product of what comes in with the result, which CUDA's kernel makes for itself.

    torch v2.13.0 aten/src/ATen/native/cuda/SoftMax.cu, softmax_backward_cuda_out: ``Tensor tmp = grad * output``.
    """

    def back(g: Value) -> Grads:
        grad = tape.new(f"gradient of {label}", axes, form)
        tape.scratch("gradient times softmax", size(axes) * WIDTH[made])
        return (grad,)

    return back


def matmul(a: Value, b: Value, axes: Axes, label: str) -> Value:
    """A batched matrix product of two activations: saves both."""
    a, b = lowered(a), lowered(b)
    tape = a.tape
    out = tape.product(label, axes, a.dtype)
    axes_a, axes_b, dtype = a.axes, b.axes, a.dtype
    grad_a, grad_b = needs_grad(a), needs_grad(b)

    def back(g: Value) -> Grads:
        gb = tape.factor("gradient of right factor", axes_b, dtype) if grad_b else None
        ga = tape.factor("gradient of left factor", axes_a, dtype) if grad_a else None
        return ga, gb

    saved = (*((a,) if grad_b else ()), *((b,) if grad_a else ()))
    tape.record((out,), (a, b), back, saved)
    return out


def dropout(x: Value, p: float, training: bool) -> Value:
    """``F.dropout`` as CUDA runs it: one kernel that saves a mask of a byte an element; nothing at p = 0."""
    if not p or not training:
        return x
    tape, axes, dtype = x.tape, x.axes, x.dtype
    made = ("dropout", dtype), ("dropout mask", "bool")
    out, mask = tape.results("dropout", lambda: tuple(tape.new(label, axes, form) for label, form in made))
    tape.record((out,), (x,), lambda g: (tape.new("gradient of dropout", axes, dtype),), (mask,))
    return out


def split(x: Value, parts: tuple[Axes, ...]) -> tuple[Value, ...]:
    """``x.split(...)``, ``chunk`` or ``unbind``: views; the backward joins their gradients into one."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    outs = tuple(Value(x.storage, part, dtype) for part in parts)
    tape.record(outs, (x,), lambda *g: (tape.new("joined gradient", axes, dtype),), ())
    return outs


def narrow(x: Value, axes: Axes, *, by_heads: bool = False) -> Value:
    """A slice: a view whose gradient is a whole tensor of zeros with the slice filled in.

    That is laid out as the axes are in the modelled code, whatever ``x`` was: ``by_heads`` with heads before tokens.
    """
    tape, whole, dtype = x.tape, x.axes, x.dtype
    out = Value(x.storage, axes, dtype)
    moved = by_heads and all(n > 1 for _, n in whole[1:3])

    def back(_: Value) -> Grads:
        g = tape.new("gradient of slice", whole, dtype)
        g.storage.by_heads = moved
        return (g,)

    tape.record((out,), (x,), back, ())
    return out


def cat(values: tuple[Value, ...], axes: Axes, label: str = "joined") -> Value:
    """``torch.cat``: copies; the gradients are views of one."""
    tape, dtype = values[0].tape, max((v.dtype for v in values), key=WIDTH.__getitem__)
    if not tape.joins_nothing and sum(size(v.axes) > 0 for v in values) == 1:
        return next(v for v in values if size(v.axes))
    (out,) = tape.results("cat", lambda: (tape.new(label, axes, dtype),))
    shapes = tuple((v.axes, v.dtype) for v in values)

    def back(g: Value) -> Grads:
        return tuple(g.view(s) if g.dtype == d else tape.new(f"gradient to {d}", s, d) for s, d in shapes)

    tape.record((out,), values, back, ())
    return out


def copy(x: Value, axes: Axes | None = None, label: str = "copy") -> Value:
    """``contiguous()``, ``clone()`` or a reshape that cannot be a view, with the sum over what it repeated."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    after = before if axes is None else axes
    out = tape.new(label, after, dtype)

    def back(g: Value) -> Grads:
        return (g.view(before) if size(after) == size(before) else tape.new("summed over repeats", before, dtype),)

    tape.record((out,), (x,), back, ())
    return out


def expand(x: Value, axes: Axes) -> Value:
    """``x.expand(...)``: a view of one as many, whose gradients are summed."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = Value(x.storage, axes, dtype)
    out.expanded = True
    tape.record((out,), (x,), lambda g: (tape.new("summed over repeats", before, dtype),), ())
    return out


def embedding(indices: Value, weight: Parameter | Value, width: Axes, *, kept: bool = True) -> Value:
    """``F.embedding``: saves the indices; its gradient is as large as the whole table.

    ``kept`` is off where the indices are part of a buffer.
    """
    tape, table = indices.tape, weight.axes
    out = tape.new("embedding", indices.axes + width, weight.dtype)
    dtype = weight.dtype
    saved = (indices,) if kept else ()
    tape.record((out,), (weight,), lambda g: (tape.new("gradient of embedding", table, dtype),), saved)
    return out
