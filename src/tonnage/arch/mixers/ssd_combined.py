"""The fused kernels of Mamba 2: one ``autograd.Function`` for what stands behind a mixer's first projection, the last
projection included.

Stated as its Python code allocates, with its local variables: what a function saves, what it makes again backward
instead, and what lives until it returns.

References: https://github.com/state-spaces/mamba/blob/v2.3.2.post1/mamba_ssm/ops/triton/ssd_combined.py
(``MambaSplitConv1dScanCombinedFn``), ssd_chunk_state.py, ssd_chunk_scan.py, ssd_state_passing.py, ssd_bmm.py,
layernorm_gated.py.

Leaves out: workspaces of the deterministic mode; what Triton takes while it tries configurations in the first step.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch import ops
from tonnage.arch.mixers.mamba_ssm import Weights, convolution_gradients, lowered
from tonnage.arch.reductions import scratch
from tonnage.arch.tape import WIDTH, Grads, Parameter, Tape, Value, needs_grad
from tonnage.record import Record
from tonnage.tensors import Axes, Axis, size

ALIGNED: Final = 8
"""Elements that a token's row is a multiple of, else the convolution is handed a copy."""
FEATURES: Final = 65536
"""Bytes of a row that one program of the norm's kernel takes at most."""


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
    packed: Value,
    w: Weights,
    heads: Heads,
    channels: Axes,
    rest: tuple[Parameter, Parameter, Parameter | None],
    A: Value,
) -> Value:
    """``MambaSplitConv1dScanCombinedFn``: keeps what it was given, the scan's output and, with a norm, a number a row.

    The output is gated by the norm's kernel, or by the scan's where there is no norm.

    Args:
        packed: gate, channels, state vectors and time steps, side by side.
        w: of convolution and projection behind.
        heads: sizes.
        channels: what the convolution sees, axes ``B T I``.
        rest: time step's bias, skip, and the norm's weight, if there is a norm.
        A: decay, in fp32.
    """
    tape, dtype, axes = packed.tape, packed.dtype, packed.axes
    bias, skip, norm = rest
    B, T, _ = axes
    s = heads.over(B[1], T[1])
    N, I = ("N", heads.N), w.out.axes[1]  # noqa: E741
    narrow: Axes = (B, T, I)
    copies = axes[-1][1] % ALIGNED != 0
    out_width = w.out.axes[:1]
    given = (packed, w.convolution, w.shift, bias, A, skip, norm, w.out, w.out_bias)
    wants = tuple(needs_grad(g) for g in given)
    form = tape.autocast or dtype

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
    gated = tape.new("gated output", narrow, dtype) if norm is None else None
    out = tape.new("output of the scan", narrow, dtype)
    del scores
    if gated is None:
        gated = tape.new("norm output", narrow, dtype)
    rstd = None if norm is None else tape.new("norm rstd", (B, T, ("K", heads.G)), "fp32")
    # Autocast's copies are the function's own.
    narrowed = gated if form == dtype else tape.new("gated output, cast", narrow, form)
    lowered_out = [lowered(p) for p in (w.out, w.out_bias) if p is not None]
    gated = narrowed
    made = tape.product("out_proj output", (B, T, *out_width), form)
    del gated, narrowed, xs, step, total, states, last

    def back(g: Value) -> Grads:
        again = tape.new("gated output", narrow, dtype)
        xs = convolved()
        gradient = tape.new("gradient of what is packed", axes, dtype)
        gchannels = tape.new("gradient of the convolution", channels, dtype)
        above = tape.product("gradient of the gated output", narrow, form)
        gscan = None if norm is None else tape.new("gradient of the scan", narrow, dtype)
        gnorm = None if norm is None else _of_norm(tape, norm, heads, WIDTH[dtype])
        gate = (narrow, form) if norm is None else None
        gskip, gA, gbias, *outputs = _scanned_back(tape, heads, s, (B, T, N), dtype, skip, gate)
        cast = None if form == dtype else tape.new("gated output, cast", narrow, form)
        gout = tape.product("gradient of out_proj", (*out_width, I), form)
        del cast
        gout_bias = None if w.out_bias is None else _over_tokens(tape, axes[:2], out_width, form)
        aligned = tape.new("channels, aligned", channels, dtype) if copies else None
        target = tape.new("gradient of channels, aligned", channels, dtype) if copies else None
        gkernel, gshift = convolution_gradients(tape, w)
        del aligned
        grads = (gradient, gkernel, gshift, gbias, gA, gskip, gnorm, gout, gout_bias)
        del gscan, outputs, xs, gchannels, again, above, target
        return tuple(
            ops.fitted(g, g.axes, form) if g is not None and wanted else None
            for g, form, wanted in zip(grads, formats, wants, strict=True)
        )

    formats = tuple("" if g is None else g.dtype for g in given)
    kept = (packed, out, A, *([] if rstd is None else [rstd]), *(v for v in lowered_out if isinstance(v, Value)))
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
    tape: Tape, heads: Heads, s: Chunks, steps: Axes, dtype: str, skip: Parameter, gate: tuple[Axes, str] | None
) -> tuple[Value, ...]:
    """``_mamba_chunk_scan_combined_bwd``: makes the scan again, and gradients of what it was given.

    Args:
        tape, heads, s, steps, dtype, skip: as ``split`` has them.
        gate: axes of the output and format of its gradient, where the scan's kernel gates it.

    Returns:
        Gradients of skip, decay and the time step's bias; where it is gated here, the gated output.
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
    gated, gskip = _gated_back(tape, s, gate, dtype, skip, N) if gate is not None else ([], None)
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
    unused = _summed_skip(tape, gskips, N, skip)
    gskip = unused if gskip is None else gskip
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
    del gdecay, unused
    return gskip, gA, gbias, *gated[:1]


def _gated_back(
    tape: Tape, s: Chunks, gate: tuple[Axes, str], dtype: str, skip: Parameter, N: Axis
) -> tuple[list[Value], Value]:
    """``_chunk_scan_bwd_dz``: the gated output again, and the gradient of what was gated; and that of the skip."""
    axes, form = gate
    parts = tape.new("gradient of skip, in parts", (("X", s.tiles), *s.totals), "fp32")
    made = [tape.new("gated output", axes, dtype), tape.new("gradient of the scan", axes, form)]
    for n in scratch(size(parts.axes) // N[1], N[1]):
        tape.scratch("partial sums", n)
    gskip = tape.new("gradient of skip", (N,), "fp32")
    return made, gskip if skip.dtype == "fp32" else tape.new("gradient of skip", (N,), skip.dtype)


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
