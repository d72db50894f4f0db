"""The fused kernels of mamba-ssm and causal-conv1d: one ``autograd.Function`` for what stands behind a mixer's first
projection, the last projection included.

Stated as their Python and C++ code allocates, with its local variables: what a function saves, what it makes again
backward instead, and what lives until it returns.

References: https://github.com/state-spaces/mamba/blob/v2.3.2.post1/mamba_ssm/ops/selective_scan_interface.py
(``MambaInnerFn``, with ``checkpoint_lvl`` 1), .../csrc/selective_scan/selective_scan.cpp, .../mamba_ssm/ops/triton/
ssd_combined.py (``MambaSplitConv1dScanCombinedFn``), ssd_chunk_state.py, ssd_chunk_scan.py, ssd_state_passing.py,
ssd_bmm.py, layernorm_gated.py, and https://github.com/Dao-AILab/causal-conv1d/blob/v1.6.1.post4/causal_conv1d/
cpp_functions.py.

Leaves out: workspaces of the deterministic mode; what Triton takes while it tries configurations in the first step.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch import ops
from tonnage.arch.reductions import scratch
from tonnage.arch.tape import WIDTH, Grads, Parameter, Tape, Value, needs_grad
from tonnage.record import Record
from tonnage.tensors import Axes, size

SCANNED: Final = 2048
"""Tokens between two states that the selective scan keeps."""
ALIGNED: Final = 8
"""Elements that a token's row is a multiple of, else the convolution is handed a copy."""
FEATURES: Final = 65536
"""Bytes of a row that one program of the norm's kernel takes at most."""


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
) -> Value:
    """``MambaInnerFn``: keeps channels and gates, the scan's input vectors, its output and a state now and then.

    Args:
        packed: channels and gates, axes ``B X=2 I T``, as a view of what has its tokens first.
        w: of convolution and projection behind.
        x_proj, dt_proj: to time step and state vectors, and from its latent to every channel's.
        A, D, bias: decay, skip and the time step's bias, in fp32.
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
        gkernel, gshift = _convolution_gradients(tape, w)
        grads = (gradient, gkernel, gshift, gproj, gdt, gout, gA, gD, gbias)
        del x, delta, of_output, again, gx, gdelta, glatent
        return tuple(
            ops.fitted(g, g.axes, s) if g is not None and wanted else None
            for g, s, wanted in zip(grads, formats, wants, strict=True)
        )

    A_axes = A.axes
    formats = tuple("" if g is None else g.dtype for g in given)
    kept = (whole, latent, x_weight, dt_weight, out_weight, A, b, c, D, bias, states, out)
    tape.record((made,), given, back, tuple(v for v in kept[::-1] if isinstance(v, Value)), custom=True)
    return made


def _convolution_gradients(tape: Tape, w: Weights) -> tuple[Value, Value | None]:
    """Of kernel and bias: summed in fp32, then in the weights' format."""
    kernel = tape.new("gradient of convolution", w.convolution.axes, "fp32")
    shift = None if w.shift is None else tape.new("gradient of convolution's bias", w.shift.axes, "fp32")
    if w.convolution.dtype != "fp32":
        kernel = tape.new("gradient of convolution", w.convolution.axes, w.convolution.dtype)
        shift = shift and tape.new("gradient of convolution's bias", shift.axes, w.convolution.dtype)
    return kernel, shift


def convolution(x: Value, kernel: Parameter) -> Value:
    """``CausalConv1dFn``, activated, of channels that lie side by side, axes ``B T I``: keeps what it was given."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    w = Weights(convolution=kernel, shift=None, out=kernel, out_bias=None)
    out = tape.new("convolution", axes, dtype)
    trained = needs_grad(kernel)

    def back(g: Value) -> Grads:
        gradient = tape.new("gradient of channels", axes, dtype)
        of_kernel, _ = _convolution_gradients(tape, w)
        return gradient, of_kernel if trained else None

    tape.record((out,), (x, kernel), back, (x,), custom=True)
    return out


class Heads(Record):
    """Sizes of a Mamba 2 mixer.

    Args:
        N, H, G, Z: heads, their width, groups that share state vectors, state of a channel.
        chunk: tokens that are scanned as one block.
        processors: multiprocessors of the device, over which sums are split.
    """

    N: int
    H: int
    G: int
    Z: int
    chunk: int
    processors: int = 132

    def over(self, B: int, T: int) -> Chunks:
        """Shapes of what is made of ``B`` sequences of ``T`` tokens."""
        blocks = -(-T // self.chunk)
        ratio = self.N // self.G
        each = max(min(-(-B * blocks * self.N // self.processors), ratio), 1)
        b, n, c, N, G = ("B", B), ("X", blocks), ("T", self.chunk), ("N", self.N), ("K", self.G)
        return Chunks(
            steps=(b, N, n, c), states=(b, n, N, ("H", self.H), ("Z", self.Z)), scores=(b, n, G, c, ("S", self.chunk)),
            last=(b, N, ("H", self.H), ("Z", self.Z)), totals=(b, N, n), splits=-(-ratio // each),
            parts=-(-self.H * self.Z // 64), tiles=-(-self.chunk // 32),
        )  # fmt: skip


class Chunks(Record):
    """Shapes of a scan in blocks.

    Args:
        steps: a number for each head and token.
        states: what each block starts from.
        scores: of the tokens of a block with each other.
        last: the state behind the last block.
        totals: a number for each head and block.
        splits: programs that share a group's heads, each with sums of its own.
        parts, tiles: of a state, and of a block, that leave sums of their own.
    """

    steps: Axes
    states: Axes
    scores: Axes
    last: Axes
    totals: Axes
    splits: int
    parts: int
    tiles: int


def split(
    packed: Value, w: Weights, heads: Heads, channels: Axes, rest: tuple[Parameter, Parameter, Parameter], A: Value
) -> Value:
    """``MambaSplitConv1dScanCombinedFn``: keeps what it was given, the scan's output and a number a row.

    Args:
        packed: gate, channels, state vectors and time steps, side by side.
        w: of convolution and projection behind.
        heads: sizes.
        channels: what the convolution sees, axes ``B T I``.
        rest: time step's bias, skip, and the norm's weight.
        A: decay, in fp32.
    """
    tape, dtype, axes = packed.tape, packed.dtype, packed.axes
    bias, skip, norm = rest
    B, T, _ = axes
    s = heads.over(B[1], T[1])
    N, I = ("N", heads.N), norm.axes[0]  # noqa: E741
    narrow: Axes = (B, T, I)
    copies = axes[-1][1] % ALIGNED != 0
    out_width = w.out.axes[:1]
    given = (packed, w.convolution, w.shift, bias, A, skip, norm, w.out, w.out_bias)
    wants = tuple(needs_grad(g) for g in given)
    lowered_out = [lowered(p) for p in (w.out, w.out_bias) if p is not None]

    def convolved() -> Value:
        aligned = tape.new("channels, aligned", channels, dtype) if copies else None
        made = tape.new("convolution", channels, dtype)
        del aligned
        return made

    xs = convolved()
    step = tape.new("time step", s.steps, "fp32")
    total = tape.new("cumulated decay", s.steps, "fp32")
    states = tape.new("states", s.states, "fp32")
    passed = tape.new("states, passed on", s.states, dtype)
    last = tape.new("last state", s.last, "fp32")
    states = passed
    del passed
    scores = tape.new("scores", s.scores, "fp32")
    out = tape.new("output of the scan", narrow, dtype)
    del scores
    normed = tape.new("norm output", narrow, dtype)
    rstd = tape.new("norm rstd", (B, T, ("K", heads.G)), "fp32")
    made = tape.product("out_proj output", (B, T, *out_width), dtype)
    del normed, xs, step, total, states, last

    def back(g: Value) -> Grads:
        again = tape.new("norm output", narrow, dtype)
        xs = convolved()
        gradient = tape.new("gradient of what is packed", axes, dtype)
        gchannels = tape.new("gradient of the convolution", channels, dtype)
        above = tape.product("gradient of the norm output", narrow, dtype)
        gscan = tape.new("gradient of the scan", narrow, dtype)
        gnorm = _of_norm(tape, norm, heads, WIDTH[dtype])
        gskip, gA, gbias = _scanned_back(tape, heads, s, (B, T, N), dtype, skip)
        gout = tape.product("gradient of out_proj", (*out_width, I), dtype)
        gout_bias = None if w.out_bias is None else _over_tokens(tape, axes[:2], out_width, dtype)
        aligned = tape.new("channels, aligned", channels, dtype) if copies else None
        target = tape.new("gradient of channels, aligned", channels, dtype) if copies else None
        gkernel, gshift = _convolution_gradients(tape, w)
        del aligned
        grads = (gradient, gkernel, gshift, gbias, gA, gskip, gnorm, gout, gout_bias)
        del gscan, xs, gchannels, again, above, target
        return tuple(
            ops.fitted(g, g.axes, form) if g is not None and wanted else None
            for g, form, wanted in zip(grads, formats, wants, strict=True)
        )

    formats = tuple("" if g is None else g.dtype for g in given)
    kept = (packed, out, A, rstd, *(v for v in lowered_out if isinstance(v, Value)))
    tape.record((made,), given, back, kept[::-1], custom=True)
    return made


def _over_tokens(tape: Tape, rows: Axes, width: Axes, dtype: str) -> Value:
    """The gradient of a bias."""
    made = tape.new("gradient of bias", width, dtype)
    for n in scratch(size(rows), size(width)):
        tape.scratch("partial sums", n)
    return made


def _of_norm(tape: Tape, norm: Parameter, heads: Heads, element: int) -> Value:
    """The gradient of the norm's weight: a row for every program, summed."""
    group = norm.axes[0][1] // heads.G
    block = min(FEATURES // element, 1 << (group - 1).bit_length())
    warps = min(max(block // 256, 1), 8)
    rows = -(-heads.processors * -(-4 // warps) // heads.G)
    parts = tape.new("weight gradient in parts", (("X", rows), *norm.axes), "fp32")
    for n in scratch(rows, size(norm.axes)):
        tape.scratch("partial sums", n)
    total = tape.new("gradient of norm weight", norm.axes, "fp32")
    total = total if norm.dtype == "fp32" else tape.new("gradient of norm weight", norm.axes, norm.dtype)
    del parts
    return total


def _scanned_back(
    tape: Tape, heads: Heads, s: Chunks, steps: Axes, dtype: str, skip: Parameter
) -> tuple[Value, Value, Value]:
    """``_mamba_chunk_scan_combined_bwd``: makes the scan again, and gradients of what it was given.

    Returns:
        Gradients of skip, decay and the time step's bias.
    """
    B, T, N = steps
    vectors: Axes = (B, T, ("K", heads.G), ("Z", heads.Z))
    given = tape.new("time steps", steps, dtype)
    step = tape.new("time step", s.steps, "fp32")
    total = tape.new("cumulated decay", s.steps, "fp32")
    scores = tape.new("scores", s.scores, "fp32")
    states = tape.new("states", s.states, "fp32")
    passed = tape.new("states, passed on", s.states, "fp32")
    last = tape.new("last state", s.last, "fp32")
    states = passed
    del passed
    gstates = tape.new("gradient of states", s.states, "fp32")
    narrowed = tape.new("gradient of states", s.states, dtype)
    converted = tape.new("states", s.states, dtype) if dtype != "fp32" else states
    parts = tape.new("gradient of decay, in parts", (*s.totals, ("X", s.parts)), "fp32")
    gtotals = tape.new("gradient of blocks' decay", s.totals, "fp32")
    del parts
    gstates = narrowed
    states = converted
    del narrowed, converted
    gskips = tape.new("gradient of skip, in parts", (("X", s.tiles), *s.totals), "fp32")
    gstep = tape.new("gradient of time step", s.steps, "fp32")
    gskip = _summed_skip(tape, gskips, N, skip)
    del gskips
    gnext = tape.new("gradient of decay, next block", s.steps, "fp32")
    gb = _over_splits(tape, vectors, s.splits, 2)
    gprevious = tape.new("gradient of decay, last block", s.steps, "fp32")
    gc = _over_splits(tape, vectors, s.splits, 2)
    gscores = _over_splits(tape, s.scores, s.splits, 2)
    flipped = tape.new("flipped", s.steps, "fp32")
    summed = tape.new("cumulated", s.steps, "fp32")
    del flipped
    before = tape.new("gradient of decay, before", s.steps, "fp32")
    del summed
    tiles = tape.new("gradient of decay, in parts", (*s.steps, ("X", s.tiles)), "fp32")
    gdecay = tape.new("gradient of decay", s.steps, "fp32")
    del tiles
    both = tape.new("sum", s.steps, "fp32")
    del both
    gbias = tape.new("gradient of time step's bias", (N,), "fp32")
    gA = tape.new("gradient of decay", (N,), "fp32")
    # As Python lets go of a function's names: its arguments first.
    del step, gstep, gb, gc, last, given, total, scores, states, gstates, gtotals, gnext, gprevious, gscores, before
    del gdecay
    return gskip, gA, gbias


def _over_splits(tape: Tape, axes: Axes, splits: int, at: int) -> Value:
    """A gradient that several programs left each a part of."""
    parts = tape.new("gradient in parts", (*axes[:at], ("X", splits), *axes[at:]), "fp32")
    made = tape.new("gradient", axes, "fp32")
    del parts
    return made


def _summed_skip(tape: Tape, parts: Value, N: tuple[str, int], skip: Parameter) -> Value:
    """Over blocks and sequences, then over the last axis of one, then in the weight's format."""
    for n in scratch(size(parts.axes) // N[1], N[1]):
        tape.scratch("partial sums", n)
    made = tape.new("gradient of skip", (N,), "fp32")
    made = tape.new("gradient of skip", (N,), "fp32")
    return made if skip.dtype == "fp32" else tape.new("gradient of skip", (N,), skip.dtype)
