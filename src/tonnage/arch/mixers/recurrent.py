"""Recurrent mixers: state-space models whose state has one size whatever the length of the sequence.

transformers runs them by the fused kernels of ``mamba_ssm`` and ``causal_conv1d`` where these are installed
(``mamba_ssm.py``, ``ssd_combined.py``), and otherwise by operations of torch (``scan.py``). Both are modelled for
training steps; a pass that fills a cache is refused.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/cache_utils.py
(LinearAttentionLayer), and the modeling files that the families name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.forward import Forward, Mixers
from tonnage.arch.layers import Linear, Norm, NormStyle
from tonnage.arch.mixers import mamba_ssm, scan, ssd_combined
from tonnage.arch.tape import Parameter, Tape, Value
from tonnage.arch.untraced import untold
from tonnage.errors import InputError
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor


def _path(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def _convolution(path: str, channels: int, C: int, bias: bool) -> Iterator[Tensor]:
    """A causal convolution of every channel by itself."""
    yield Tensor(f"{path}.weight", (("I", channels), ("X", 1), ("C", C)), "mixer")
    if bias:
        yield Tensor(f"{path}.bias", (("I", channels),), "mixer")


def _mixers(f: Forward, what: str) -> Mixers:
    if f.mixer is None:
        raise untold(f"{what} outside of a training step on the next token")
    return f.mixer


def _weights(
    tape: Tape, name: str, channels: int, C: int, shifted: bool, D: int, inner: int, biased: bool
) -> mamba_ssm.Weights:
    """Those of the convolution and of the projection behind."""
    path, width = _path(name, "conv1d"), ("I", channels)
    return mamba_ssm.Weights(
        convolution=tape.parameter(f"{path}.weight", (width, ("X", 1), ("C", C))),
        shift=tape.parameter(f"{path}.bias", (width,)) if shifted else None,
        out=tape.parameter(_path(name, "out_proj.weight"), (("D", D), ("I", inner))),
        out_bias=tape.parameter(_path(name, "out_proj.bias"), (("D", D),)) if biased else None,
    )


class Mamba1(Record):
    """Selective state space with a state of ``Z`` numbers for each of ``I`` channels (arXiv:2312.00752).

    Args:
        name: path of the module below its layer.
        D: residual width.
        I: inner width.
        Z: state of a channel.
        C: tokens that the convolution sees.
        R: rank of the time step.
        act: activation function behind the convolution.
        bias: whether the projections in and out have one.
        conv_bias: whether the convolution has one.
        inner_norms: time step and the two state vectors are normalised (Jamba).
        fixed: by norms whose weights are buffers, the time step's as wide as it is for every channel (Falcon Mamba).
    """

    packages: ClassVar[tuple[str, ...]] = ("mamba-ssm",)
    """Packages whose kernels transformers runs it by, where they are installed."""
    kernels_stated: ClassVar[bool] = True
    """Whether what those take is."""
    working_set_modelled: ClassVar[bool] = False
    """Whether the default path's forward pass is modelled."""

    name: str
    D: int
    I: int  # noqa: E741
    Z: int
    C: int
    R: int
    act: str = "silu"
    bias: bool = False
    conv_bias: bool = True
    inner_norms: bool = False
    fixed: bool = False

    @property
    def in_proj(self) -> Linear:
        """To the channels and their gates."""
        return Linear(_path(self.name, "in_proj"), (("D", self.D),), (("X", 2), ("I", self.I)), "mixer", self.bias)

    @property
    def x_proj(self) -> Linear:
        """To the time step's latent and the two state vectors, which all channels share."""
        return Linear(_path(self.name, "x_proj"), (("I", self.I),), (("X", self.R + 2 * self.Z),), "mixer")

    @property
    def dt_proj(self) -> Linear:
        """From the latent to every channel's time step."""
        return Linear(_path(self.name, "dt_proj"), (("R", self.R),), (("I", self.I),), "mixer", True)

    @property
    def out_proj(self) -> Linear:
        """Back to the residual width."""
        return Linear(_path(self.name, "out_proj"), (("I", self.I),), (("D", self.D),), "mixer", self.bias)

    @property
    def norms(self) -> tuple[Norm, ...]:
        """Of the time step's latent and the two state vectors."""
        if not self.inner_norms:
            return ()
        parts = (("dt", ("R", self.R)), ("b", ("Z", self.Z)), ("c", ("Z", self.Z)))
        style: NormStyle = "rms-bare" if self.fixed else "rms"
        return tuple(
            Norm(_path(self.name, f"{part}_layernorm"), (axis,), style, weight=not self.fixed) for part, axis in parts
        )

    def weights(self) -> Iterator[Tensor]:
        """Decay and skip of every channel, convolution, projections, norms."""
        yield Tensor(_path(self.name, "A_log"), (("I", self.I), ("Z", self.Z)), "mixer")
        yield Tensor(_path(self.name, "D"), (("I", self.I),), "mixer")
        yield from _convolution(_path(self.name, "conv1d"), self.I, self.C, self.conv_bias)
        for matrix in (self.in_proj, self.x_proj, self.dt_proj, self.out_proj):
            yield from matrix.weights()
        for norm in self.norms:
            yield from norm.weights()
            if self.fixed:
                axis = ("I", self.I) if norm.axes[0][0] == "R" else norm.axes[0]
                yield Tensor(f"{norm.name}.weight", (axis,), "buffer")

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """The convolution's last inputs and the recurrence, for any ``S``."""
        yield Tensor("conv_states", (("B", B), ("I", self.I), ("C", self.C)), "state")
        yield Tensor("recurrent_states", (("B", B), ("I", self.I), ("Z", self.Z)), "state", dtype="fp32")

    def forward(self, f: Forward, x: Value) -> Value:
        """A loop over the tokens, or one kernel with all that stands behind the first projection."""
        how = _mixers(f, "a Mamba mixer")
        tape, before = f.tape, x.dtype
        B, T, _ = x.axes
        I, Z = ("I", self.I), ("Z", self.Z)  # noqa: E741
        channels: Axes = (B, I, T)
        projected = scan.turned(self.in_proj.forward(f, x), (B, ("X", 2), I, T))
        A = scan.decay(tape.parameter(_path(self.name, "A_log"), (I, Z)))
        if how.package is not None:
            if self.bias:
                raise untold("a Mamba mixer with biases, run by the kernels of mamba-ssm,")
            return self._fused(f, projected, A) if self.fixed or not self.norms else self._scanned(f, projected, A)
        xs, gate = ops.split(projected, (channels, channels))
        xs = scan.convolution(tape, xs, _path(self.name, "conv1d"), self.C, self.conv_bias, self.act)
        latent: Axes = (B, T, ("R", self.R))
        step, b, c = ops.split(self.x_proj.forward(f, scan.rows(xs, T, I)), (latent, (B, T, Z), (B, T, Z)))
        if self.norms:
            step, b, c = (norm.forward(f, part) for norm, part in zip(self.norms, (step, b, c), strict=True))
        step = scan.step(step, tape.parameter(_path(self.name, "dt_proj.weight"), (I, ("R", self.R))), channels)
        bias = scan.to(tape.parameter(_path(self.name, "dt_proj.bias"), (I,)), "fp32")
        out = scan.loop(xs, step, A, b, c, scan.to(tape.parameter(_path(self.name, "D"), (I,)), "fp32"), gate, bias)
        return self.out_proj.forward(f, scan.rows(scan.to(out, before), T, I))

    def _fused(self, f: Forward, packed: Value, A: Value) -> Value:
        tape = f.tape
        I, R = ("I", self.I), ("R", self.R)  # noqa: E741
        x_proj = tape.parameter(_path(self.name, "x_proj.weight"), (("X", self.R + 2 * self.Z), I))
        dt_proj = tape.parameter(_path(self.name, "dt_proj.weight"), (I, R))
        skip = scan.to(tape.parameter(_path(self.name, "D"), (I,)), "fp32")
        bias = scan.to(tape.parameter(_path(self.name, "dt_proj.bias"), (I,)), "fp32")
        weights = _weights(tape, self.name, self.I, self.C, self.conv_bias, self.D, self.I, self.bias)
        return mamba_ssm.inner(packed, weights, x_proj, dt_proj, A, skip, bias, normed=self.fixed)

    def _scanned(self, f: Forward, packed: Value, A: Value) -> Value:
        """By kernels of convolution and scan alone, since other norms stand between them."""
        tape, (B, _, I, T), before = f.tape, packed.axes, packed.dtype  # noqa: E741
        channels: Axes = (B, I, T)
        latent: Axes = (B, T, ("R", self.R))
        path, states = _path(self.name, "conv1d"), (B, T, ("Z", self.Z))
        xs, gate = ops.split(packed, ((B, T, I), channels))
        kernel = tape.parameter(f"{path}.weight", (I, ("X", 1), ("C", self.C)))
        xs = mamba_ssm.convolution(xs, kernel, tape.parameter(f"{path}.bias", (I,)) if self.conv_bias else None)
        parts = ops.split(self.x_proj.forward(f, xs), (latent, states, states))
        step, b, c = (norm.forward(f, part) for norm, part in zip(self.norms, parts, strict=True))
        del parts
        step = scan.step(step, tape.parameter(_path(self.name, "dt_proj.weight"), (I, ("R", self.R))), channels)
        if b.dtype != xs.dtype:
            # The kernel asserts that they are of one format.
            raise InputError(
                f"the kernel of mamba-ssm takes no state vectors in {b.dtype} beside channels in {xs.dtype}: the norms "
                "between them keep the format of their weights", key="precision", hint="--precision bf16",
            )  # fmt: skip
        bias = scan.to(tape.parameter(_path(self.name, "dt_proj.bias"), (I,)), "fp32")
        skip = scan.to(tape.parameter(_path(self.name, "D"), (I,)), "fp32")
        out = mamba_ssm.selective_scan(xs, step, A, b, c, skip, gate, bias)
        return self.out_proj.forward(f, scan.turned(scan.to(out, before), (B, T, I)))


class Mamba2(Record):
    """State-space duality: ``N`` heads, each with a scalar decay and a state of ``H x Z`` (arXiv:2405.21060).

    Args:
        name: path of the module below its layer.
        D: residual width.
        N: heads.
        H: width of a head.
        G: groups of heads that share the two state vectors.
        Z: state of a channel.
        C: tokens that the convolution sees.
        chunk: tokens that are scanned as one block.
        act: activation function behind the convolution.
        bias: whether the projections in and out have one.
        conv_bias: whether the convolution has one.
        normed: the gated output goes through a norm.
        norm_first: that norm comes before the gate (Falcon-H1).
        out_bias: whether the projection out has a bias, where that differs from the one in (Falcon-H1).
        multiplied: what goes into the first projection is multiplied by a number, and what comes out by a buffer of
            one number for each row (Falcon-H1).
    """

    packages: ClassVar[tuple[str, ...]] = ("mamba-ssm",)
    """Packages whose kernels transformers runs it by, where they are installed."""
    kernels_stated: ClassVar[bool] = True
    """Whether what those take is."""
    working_set_modelled: ClassVar[bool] = False
    """Whether the default path's forward pass is modelled."""

    name: str
    D: int
    N: int
    H: int
    G: int
    Z: int
    C: int
    chunk: int
    act: str = "silu"
    bias: bool = False
    conv_bias: bool = True
    normed: bool = True
    norm_first: bool = False
    out_bias: bool | None = None
    multiplied: bool = False

    @property
    def inner(self) -> int:
        """Inner width."""
        return self.N * self.H

    @property
    def channels(self) -> int:
        """What the convolution sees: the inner width and two state vectors for each group."""
        return self.inner + 2 * self.G * self.Z

    @property
    def in_proj(self) -> Linear:
        """To gate, channels, state vectors and time steps, packed side by side; head by head, so cut as ``I`` is."""
        rows: Axes = (("I", self.inner + self.channels + self.N),)
        return Linear(_path(self.name, "in_proj"), (("D", self.D),), rows, "mixer", self.bias)

    @property
    def out_proj(self) -> Linear:
        """Back to the residual width."""
        bias = self.bias if self.out_bias is None else self.out_bias
        return Linear(_path(self.name, "out_proj"), (("I", self.inner),), (("D", self.D),), "mixer", bias)

    def weights(self) -> Iterator[Tensor]:
        """Time step's bias, decay and skip of every head, convolution, projections, gated norm."""
        for part in ("dt_bias", "A_log", "D"):
            yield Tensor(_path(self.name, part), (("N", self.N),), "mixer")
        yield from _convolution(_path(self.name, "conv1d"), self.channels, self.C, self.conv_bias)
        yield from self.in_proj.weights()
        if self.normed:
            yield Tensor(_path(self.name, "norm.weight"), (("I", self.inner),), "norm")
        yield from self.out_proj.weights()
        if self.multiplied:
            yield Tensor(_path(self.name, "mup_vector"), (("X", 1), ("X", 1), *self.in_proj.outs), "buffer")

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """The convolution's last inputs and the recurrence, for any ``S``."""
        yield Tensor("conv_states", (("B", B), ("I", self.channels), ("C", self.C)), "state")
        yield Tensor("recurrent_states", (("B", B), ("N", self.N), ("H", self.H), ("Z", self.Z)), "state", dtype="fp32")

    def forward(self, f: Forward, x: Value) -> Value:
        """Blocks of ``chunk`` tokens, or one kernel with all that stands behind the first projection."""
        how = _mixers(f, "a Mamba 2 mixer")
        tape, before = f.tape, x.dtype
        B, T, _ = x.axes
        I, N, H = ("I", self.inner), ("N", self.N), ("H", self.H)  # noqa: E741
        shared: Axes = (B, T, ("K", self.G), ("Z", self.Z))
        given = ops.scaled(x) if self.multiplied else x
        packed = self._packed(f, given)
        A = scan.decay(tape.parameter(_path(self.name, "A_log"), (N,)))
        if how.package is not None:
            return self._fused(f, packed, A, how.processors)
        gate, xs, step = ops.split(packed, ((B, T, I), (B, ("I", self.channels), T), (B, T, N)))
        xs = scan.convolution(tape, xs, _path(self.name, "conv1d"), self.C, self.conv_bias, self.act)
        xs, b, c = ops.split(xs, ((B, T, N, H), shared, shared))
        # The modelled code binds its name anew.
        del given
        skip, bias = tape.parameter(_path(self.name, "D"), (N,)), tape.parameter(_path(self.name, "dt_bias"), (N,))
        out = scan.blocks(self.chunk, xs, b, c, step, A, skip, bias).view((B, T, I))
        if not self.normed:
            out = ops.mul(out, ops.unary(gate, "silu"), "gated", axes=out.axes)
        else:
            norm = scan.norm_in_groups if self.norm_first else scan.gated_norm
            out = norm(out, gate, tape.parameter(_path(self.name, "norm.weight"), (I,)), self.G)
        return self.out_proj.forward(f, scan.to(out, before))

    def _packed(self, f: Forward, x: Value) -> Value:
        """What the first projection makes."""
        packed = self.in_proj.forward(f, x)
        if not self.multiplied:
            return packed
        numbers = Parameter(f.tape, _path(self.name, "mup_vector"), packed.axes[2:], f.tape.weights, trained=False)
        return ops.mul(packed, numbers, "multiplied", axes=packed.axes)

    def _fused(self, f: Forward, packed: Value, A: Value, processors: int) -> Value:
        tape = f.tape
        N, I = ("N", self.N), ("I", self.inner)  # noqa: E741
        bias, skip = (tape.parameter(_path(self.name, part), (N,)) for part in ("dt_bias", "D"))
        norm = tape.parameter(_path(self.name, "norm.weight"), (I,)) if self.normed else None
        out_bias = self.bias if self.out_bias is None else self.out_bias
        weights = _weights(tape, self.name, self.channels, self.C, self.conv_bias, self.D, self.inner, out_bias)
        sizes = ssd_combined.Heads(N=self.N, H=self.H, G=self.G, Z=self.Z, chunk=self.chunk, processors=processors)
        channels: Axes = (*packed.axes[:2], ("I", self.channels))
        return ssd_combined.split(packed, weights, sizes, channels, (bias, skip, norm), A)
