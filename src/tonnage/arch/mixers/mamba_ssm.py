"""The fused kernels of Mamba and its convolution: one ``autograd.Function`` for what stands behind a mixer's first
projection, the last projection included.

Stated as their Python and C++ code allocates, with its local variables: what a function saves, what it makes again
backward instead, and what lives until it returns.

References: https://github.com/state-spaces/mamba/blob/v2.3.2.post1/mamba_ssm/ops/selective_scan_interface.py
(``MambaInnerFn``, with ``checkpoint_lvl`` 1, ``SelectiveScanFn``), .../csrc/selective_scan/selective_scan.cpp, and
https://github.com/Dao-AILab/causal-conv1d/blob/v1.6.1.post4/causal_conv1d/cpp_functions.py.

Leaves out: workspaces of the deterministic mode; what Triton takes while it tries configurations in the first step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from tonnage.arch import ops
from tonnage.arch.tape import Grads, Parameter, Tape, Value, needs_grad
from tonnage.record import Record
from tonnage.tensors import Axes

SCANNED: Final = 2048
"""Tokens between two states that the selective scan keeps."""


class Weights(Record):
    """What a function is handed besides activations.

    Args:
        convolution, shift: kernel of the convolution, and its bias.
        out, out_bias: of the projection behind; none where ``MambaInnerFn`` has one.
    """

    convolution: Parameter
    shift: Parameter | None
    out: Parameter
    out_bias: Parameter | None


def lowered(weight: Parameter) -> Value | Parameter:
    """``weight.to(autocast's format)`` inside of a function: a copy of its own, which autocast does not cache."""
    tape = weight.tape
    if tape.autocast is None or weight.dtype == tape.autocast:
        return weight
    return tape.new(f"{weight.name} cast", weight.axes, tape.autocast)


def inner(
    packed: Value,
    w: Weights,
    x_proj: Parameter,
    dt_proj: Parameter,
    A: Value,
    D: Value | Parameter,
    bias: Value | Parameter,
    *,
    normed: bool = False,
) -> Value:
    """``MambaInnerFn``: keeps channels and gates, the scan's input vectors, its output and a state now and then.

    Args:
        packed: channels and gates, axes ``B X=2 I T``, as a view of what has its tokens first.
        w: of convolution and projection behind.
        x_proj, dt_proj: to time step and state vectors, and from its latent to every channel's.
        A, D, bias: decay, skip and the time step's bias, in fp32.
        normed: time step and state vectors are, with fixed weights (Falcon Mamba).
    """
    tape, dtype = packed.tape, packed.dtype
    B, _, I, T = packed.axes  # noqa: E741
    R, Z = dt_proj.axes[1], A.axes[1]
    channels: Axes = (B, I, T)
    several, axes = B[1] > 1, packed.axes
    out_width = w.out.axes[:1]
    given = (packed, w.convolution, w.shift, x_proj, dt_proj, w.out, A, D, bias)
    wants = tuple(needs_grad(g) for g in given)
    x_weight, dt_weight, out_weight = lowered(x_proj), lowered(dt_proj), lowered(w.out)

    def convolved() -> Value:
        return tape.new("convolution", channels, dtype)

    def latent_of(x: Value) -> Value:
        # One sequence has its channels' rows as a matrix's columns.
        laid = tape.new("tokens first", (B, T, I), dtype) if several else x
        made = tape.product("x_proj output", (B, T, x_proj.axes[0]), dtype)
        del laid
        return made

    whole = tape.new("channels and gates", axes, dtype)
    x = convolved()
    latent = latent_of(x)
    delta = tape.product("time step", channels, dtype)
    b = tape.new("input vectors", (B, Z, T), dtype)
    c = tape.new("output vectors", (B, Z, T), dtype)
    if normed:
        named = [b, c, delta]
        del b, c, delta
        b, c, delta = (_normed(tape, v, dtype, partial(named.pop, 0)) for v in ((B, Z, T), (B, Z, T), channels))
    gated = tape.new("gated output", channels, dtype)
    out = tape.new("output of the scan", channels, dtype)
    states = tape.new("states", (B, I, ("X", -(-T[1] // SCANNED)), ("X", 2), Z), "fp32")
    # Both are made again backward.
    del x, delta
    made = tape.product("out_proj output", (B, T, *out_width), dtype)
    del gated

    def back(g: Value) -> Grads:
        x = convolved()
        delta = tape.product("time step", channels, dtype)
        # What was normed is normed again.
        vectors = [delta] if normed else []
        if normed:
            del delta
            delta = _normed(tape, channels, dtype, vectors.clear)
            vectors = [_normed(tape, (B, Z, T), dtype, partial(tape.rebound, v)) for v in stored]
        gradient = tape.new("gradient of channels and gates", axes, dtype)
        of_output = tape.product("gradient of the gated output", channels, dtype)
        again = tape.new("gated output", channels, dtype)
        gx = tape.new("gradient of the convolution", channels, dtype)
        gdelta = tape.new("gradient of the time step", channels, dtype)
        gA = tape.new("gradient of decay", A_axes, "fp32")
        wide = [tape.new("gradient of vectors", (B, Z, T), "fp32") for _ in range(2)]
        gD = tape.new("gradient of skip", (I,), "fp32")
        gbias = tape.new("gradient of time step's bias", (I,), "fp32")
        gb, gc = (v if dtype == "fp32" else tape.new("gradient of vectors", (B, Z, T), dtype) for v in wide)
        wide.clear()
        gout = tape.product("gradient of out_proj", (*out_width, I), dtype)
        glatent = tape.new("gradient of x_proj's output", (B, T, x_proj.axes[0]), dtype)
        laid = tape.new("gradient of vectors, tokens first", (B, T, Z), dtype)
        del gb, laid
        laid = tape.new("gradient of vectors, tokens first", (B, T, Z), dtype)
        del gc, laid
        gdt = tape.product("gradient of dt_proj", (I, R), dtype)
        part = tape.product("gradient of the latent", (B, T, R), dtype)
        del part
        if several:
            gx = tape.new("gradient of the convolution, channels first", channels, dtype)
        laid = tape.new("tokens first", (B, T, I), dtype) if several else x
        gproj = tape.product("gradient of x_proj", x_proj.axes, dtype)
        del laid
        gkernel, gshift = convolution_gradients(tape, w)
        grads = (gradient, gkernel, gshift, gproj, gdt, gout, gA, gD, gbias)
        del x, delta, vectors, of_output, again, gx, gdelta, glatent
        return tuple(
            ops.fitted(g, g.axes, s) if g is not None and wanted else None
            for g, s, wanted in zip(grads, formats, wants, strict=True)
        )

    A_axes, stored = A.axes, (b.storage, c.storage)
    formats = tuple("" if g is None else g.dtype for g in given)
    kept = (whole, latent, x_weight, dt_weight, out_weight, A, b, c, D, bias, states, out)
    tape.record((made,), given, back, tuple(v for v in kept[::-1] if isinstance(v, Value)), custom=True)
    return made


def convolution_gradients(tape: Tape, w: Weights) -> tuple[Value, Value | None]:
    """Of kernel and bias: summed in fp32, then in the weights' format."""
    kernel = tape.new("gradient of convolution", w.convolution.axes, "fp32")
    shift = None if w.shift is None else tape.new("gradient of convolution's bias", w.shift.axes, "fp32")
    if w.convolution.dtype != "fp32":
        kernel = tape.new("gradient of convolution", w.convolution.axes, w.convolution.dtype)
        shift = shift and tape.new("gradient of convolution's bias", shift.axes, w.convolution.dtype)
    return kernel, shift


def _normed(tape: Tape, axes: Axes, dtype: str, let_go: Callable[[], object]) -> Value:
    """``rms_norm_forward`` of what has its tokens last: laid out with tokens first, normed, and laid out again.

    The first of these takes the name of what was given, which is let go of.
    """
    laid = tape.new("tokens first", axes, dtype)
    let_go()
    made = tape.new("normed", axes, dtype)
    rstd = tape.new("norm rstd", (axes[0], axes[-1]), "fp32")
    del rstd
    laid = made
    del made
    back = tape.new("tokens last", axes, dtype)
    del laid
    return back


def convolution(x: Value, kernel: Parameter, shift: Parameter | None = None) -> Value:
    """``CausalConv1dFn``, activated, of channels that lie side by side, axes ``B T I``: keeps what it was given."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    w = Weights(convolution=kernel, shift=shift, out=kernel, out_bias=None)
    out = tape.new("convolution", axes, dtype)
    trained = needs_grad(kernel), needs_grad(shift)

    def back(g: Value) -> Grads:
        gradient = tape.new("gradient of channels", axes, dtype)
        of_kernel, of_shift = convolution_gradients(tape, w)
        return gradient, of_kernel if trained[0] else None, of_shift if trained[1] else None

    tape.record((out,), (x, kernel, shift), back, (x,), custom=True)
    return out


def selective_scan(
    u: Value, step: Value, A: Value, b: Value, c: Value, D: Value | Parameter, gate: Value, bias: Value | Parameter
) -> Value:
    """``SelectiveScanFn``, gated: keeps copies with their tokens last of what it was given, its output and states.

    Args:
        u: channels, axes ``B T I``.
        step: time steps, axes ``B I T``.
        A: decay, in fp32.
        b, c: state vectors, axes ``B T Z``.
        D, bias: skip and the time step's bias, in fp32.
        gate: axes ``B I T``, as a view of what has its tokens first.
    """
    tape, dtype = u.tape, u.dtype
    (B, I, T), Z = step.axes, A.axes[1]  # noqa: E741
    channels, vectors = (B, I, T), (B, Z, T)
    sources = (u, step, A, b, c, D, gate, bias)
    wants, forms = tuple(needs_grad(g) for g in sources), tuple(g.dtype for g in sources)
    xs = tape.new("channels, tokens last", channels, dtype)
    laid = [tape.new(label, vectors, dtype) for label in ("input vectors", "output vectors")]
    z = tape.new("gate, tokens last", channels, dtype)
    made = tape.new("gated output", channels, dtype)
    out = tape.new("output of the scan", channels, dtype)
    states = tape.new("states", (B, I, ("X", -(-T[1] // SCANNED)), ("X", 2), Z), "fp32")
    decays, kept = A.axes, [v for v in (D, bias) if isinstance(v, Value)]

    def back(g: Value) -> Grads:
        above = tape.new("gradient, tokens last", channels, dtype)
        gz = tape.new("gradient of the gate", channels, dtype)
        gu = tape.new("gradient of channels", channels, dtype)
        gstep = tape.new("gradient of the time step", channels, dtype)
        gA = tape.new("gradient of decay", decays, "fp32")
        wide = [tape.new("gradient of vectors", vectors, "fp32") for _ in range(2)]
        gD = tape.new("gradient of skip", (I,), "fp32")
        gbias = tape.new("gradient of time step's bias", (I,), "fp32")
        gb, gc = (v if dtype == "fp32" else tape.new("gradient of vectors", vectors, dtype) for v in wide)
        wide.clear()
        del above
        grads = (gu, gstep, gA, gb, gc, gD, gz, gbias)
        return tuple(
            ops.fitted(v.view(axes), axes, form) if wanted else None
            for v, axes, form, wanted in zip(grads, shapes, forms, wants, strict=True)
        )

    shapes = tuple(g.axes for g in sources)
    saved = (xs, step, A, *laid, *kept, z, states, out)
    tape.record((made,), sources, back, saved[::-1], custom=True)
    return made
