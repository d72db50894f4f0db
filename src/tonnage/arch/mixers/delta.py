"""Linear attention with a delta rule: a state of key width times value width a head, rewritten with every token.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3_next/modeling_qwen3_next.py
(Qwen3NextGatedDeltaNet), .../kimi_linear/modeling_kimi_linear.py (KimiLinearDeltaAttention), and what the cache keeps,
.../cache_utils.py (LinearAttentionLayer): as many inputs of the convolution as its kernel is long.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.mixers import delta_rule, fla, kimi_rule, mamba_ssm, scan
from tonnage.arch.tape import Value
from tonnage.arch.untraced import untold
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor

DeltaStyle = Literal["packed", "joined", "apart"]
"""Which projections share a matrix.

``packed``: queries, keys, values and gates in one, both rates in another (Qwen3-Next). ``joined``: queries, keys and
values (Qwen3.5). ``apart``: none (OLMo Hybrid).
"""


class GatedDelta(Record):
    """Gated delta net (arXiv:2412.06464): ``K`` heads of queries and keys, ``N`` of values, a decay for each of these.

    Args:
        name: path of the module below its layer.
        D: residual width.
        K: heads of queries and keys.
        N: heads of values, each with a state.
        H: width of a query and key head.
        VH: width of a value head.
        C: tokens that the convolution sees.
        style: which projections share a matrix.
        act: activation function behind the convolution.
        doubled: rates lie between 0 and 2.
    """

    packages: ClassVar[tuple[str, ...]] = ("fla",)
    """Packages whose kernels transformers runs it by, where they are installed."""
    kernels_stated: ClassVar[bool] = True
    """Whether what those take is."""
    stops_on_hopper: ClassVar[bool] = True
    """Whether they raise there with some releases of Triton."""
    working_set_modelled: ClassVar[bool] = False
    """Whether the default path's forward pass is modelled."""

    name: str
    D: int
    K: int
    N: int
    H: int
    VH: int
    C: int
    style: DeltaStyle = "joined"
    act: str = "silu"
    doubled: bool = False

    @property
    def channels(self) -> int:
        """What the convolution sees: queries, keys and values."""
        return 2 * self.K * self.H + self.N * self.VH

    @property
    def _own(self) -> str | None:
        """The decays' format: OLMo Hybrid makes them in fp32, which loading in 16 bit leaves."""
        return "fp32" if self.style == "apart" else None

    def _matrices(self) -> Iterator[Linear]:
        keys, values = self.K * self.H, self.N * self.VH
        rows: dict[DeltaStyle, dict[str, Axes]] = {
            "packed": {
                "in_proj_qkvz": (("I", self.channels + values),),
                "in_proj_ba": (("X", 2), ("N", self.N)),
            },
            "joined": {
                "in_proj_qkv": (("I", self.channels),),
                "in_proj_z": (("N", self.N), ("H", self.VH)),
                "in_proj_b": (("N", self.N),),
                "in_proj_a": (("N", self.N),),
            },
            "apart": {
                "q_proj": (("I", keys),),
                "k_proj": (("I", keys),),
                "v_proj": (("N", self.N), ("H", self.VH)),
                "a_proj": (("N", self.N),),
                "b_proj": (("N", self.N),),
                "g_proj": (("N", self.N), ("H", self.VH)),
            },
        }
        for matrix, outs in rows[self.style].items():
            yield Linear(f"{self.name}.{matrix}", (("D", self.D),), outs, "mixer")
        out = "o_proj" if self.style == "apart" else "out_proj"
        yield Linear(f"{self.name}.{out}", (("N", self.N), ("H", self.VH)), (("D", self.D),), "mixer")

    def weights(self) -> Iterator[Tensor]:
        """Projections, convolution, decay and rate of every head, norm of the output."""
        yield Tensor(f"{self.name}.dt_bias", (("N", self.N),), "mixer")
        yield Tensor(f"{self.name}.A_log", (("N", self.N),), "mixer", dtype=self._own)
        yield Tensor(f"{self.name}.conv1d.weight", (("I", self.channels), ("X", 1), ("C", self.C)), "mixer")
        for matrix in self._matrices():
            yield from matrix.weights()
        norm = "o_norm" if self.style == "apart" else "norm"
        yield from Norm(f"{self.name}.{norm}", (("H", self.VH),)).weights()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """The convolution's last inputs and a matrix a head, for any ``S``."""
        yield Tensor("conv_states", (("B", B), ("I", self.channels), ("C", self.C)), "state")
        axes: Axes = (("B", B), ("N", self.N), ("H", self.H), ("X", self.VH))
        yield Tensor("recurrent_states", axes, "state", dtype="fp32")

    def forward(self, f: Forward, x: Value) -> Value:
        """In operations of torch, or by the kernels of flash-linear-attention and causal-conv1d."""
        if f.mixer is None:
            raise untold("a gated delta net outside of a training step on the next token")
        tape, rows = f.tape, x.axes[:2]
        if self.style == "apart":
            projected = tuple(self._matrix(f"{part}_proj").forward(f, x) for part in "qkv")
            mixed = [ops.cat(projected, (*rows, ("I", self.channels)), "channels")]
            del projected
            given: list[Value] = []
        else:
            # Every layer is handed the table, which a checkpoint then holds.
            f.rotary.get("default")
            first, *given = self._packed(f, x) if self.style == "packed" else self._joined(f, x)
            mixed = [first]
            del first
        q, k, v, channels = self._convolved(f, mixed)
        # What these names stood for before is let go of.
        del given[3:6]
        beta = ops.unary(given[1] if given else self._matrix("b_proj").forward(f, x), "sigmoid", saves="output")
        if self.doubled:
            beta = ops.scaled(beta, "rates, doubled")
        decay = scan.decay(tape.parameter(f"{self.name}.A_log", (("N", self.N),), self._own))
        a = ops.cast(given[2] if given else self._matrix("a_proj").forward(f, x), "fp32")
        step = ops.add(a, tape.parameter(f"{self.name}.dt_bias", (("N", self.N),)), "time step")
        del a
        step = ops.unary(step, "softplus")
        g = ops.mul(decay, step, "decays", axes=step.axes)
        del decay, step
        if f.mixer.package is None:
            out = delta_rule.delta_rule(q, k, v, g, beta)
        else:
            out = fla.delta_rule(q, k, v, g, beta, f.mixer.tiling)
        gate = given[0] if given else self._matrix("g_proj").forward(f, x)
        if f.mixer.package is None and out.dtype == "fp32":
            # The norm takes heads as rows.
            out = ops.copy(out, label="output by tokens")
        name = "o_norm" if self.style == "apart" else "norm"
        out = scan.norm_gated(out, gate, tape.parameter(f"{self.name}.{name}.weight", (("H", self.VH),)))
        del channels
        return self._matrix("o_proj" if self.style == "apart" else "out_proj").forward(f, out)

    def _convolved(self, f: Forward, given: list[Value]) -> tuple[Value, Value, Value, Value]:
        """Queries, keys and values behind the convolution, and all of its channels; lets go of what was given."""
        tape, mixed = f.tape, given.pop()
        assert f.mixer is not None
        B, T, channels = mixed.axes
        heads: Axes = (B, T, ("K", self.K), ("H", self.H))
        per_value: Axes = (B, T, ("N", self.N), ("H", self.VH))
        if f.mixer.package is not None:
            kernel = tape.parameter(f"{self.name}.conv1d.weight", (channels, ("X", 1), ("C", self.C)))
            mixed = mamba_ssm.convolution(mixed, kernel)
            if self.style == "apart":
                mixed = ops.narrow(mixed, mixed.axes)
            q, k, v = ops.split(mixed, (heads, heads, per_value))
            return q, k, v, mixed
        handed = [mixed]
        del mixed
        mixed = convolved(f, handed, f"{self.name}.conv1d", self.C, self.act, cut=self.style == "apart")
        parts: Axes = tuple(("I", n) for n in (*(self.K * self.H,) * 2, self.N * self.VH))
        q, k, v = ops.split(mixed, tuple((B, T, part) for part in parts))
        return q.view(heads), k.view(heads), v.view(per_value), mixed

    def _matrix(self, name: str) -> Linear:
        return next(m for m in self._matrices() if m.name.endswith(f".{name}"))

    def _joined(self, f: Forward, x: Value) -> tuple[Value, ...]:
        """Channels, gate, rate and step, a matrix each."""
        return tuple(self._matrix(f"in_proj_{part}").forward(f, x) for part in ("qkv", "z", "b", "a"))

    def _packed(self, f: Forward, x: Value) -> tuple[Value, ...]:
        """The same taken out of two matrices head by head: all is copied; then the matrices' outputs."""
        rows, K, each = x.axes[:2], ("K", self.K), self.N // self.K
        qkvz, ba = (self._matrix(f"in_proj_{part}").forward(f, x) for part in ("qkvz", "ba"))
        head, values, step = (*rows, K, ("H", self.H)), (*rows, K, ("X", each), ("H", self.VH)), (*rows, K, ("X", each))
        q, k, v, z = ops.split(qkvz, (head, head, values, values))
        b, a = ops.split(ba, (step, step))
        per_value = (*rows, ("N", self.N), ("H", self.VH))
        v, z = ops.copy(v, per_value, "values"), ops.copy(z, per_value, "gate")
        b, a = (ops.copy(part, (*rows, ("N", self.N))) for part in (b, a))
        q, k = ops.copy(q, label="queries"), ops.copy(k, label="keys")
        return ops.cat((q, k, v), (*rows, ("I", self.channels)), "channels"), z, b, a, q, k, v, qkvz, ba


class KimiDelta(Record):
    """Kimi delta attention (arXiv:2510.26692): a delta rule with a decay of its own for every channel of a key.

    Args:
        name: path of the module below its layer.
        D: residual width.
        N: heads.
        H: width of a head.
        C: tokens that the convolution sees.
        latent: decay and output gate go through a latent of one head's width (Kimi Linear); by one matrix each where
            not (Ling).
        flat: the heads' decays stand in one dimension though they do (GLM-5.3).
        full_gate: the output gate goes through one matrix though the decay does not (Kimi K3).
        decays: entries of ``A_log`` where they are not the heads.
        modelled: whether the forward pass is that of the modelled code.
    """

    packages: ClassVar[tuple[str, ...]] = ("fla",)
    """Packages whose kernels transformers runs it by, where they are installed."""
    kernels_stated: ClassVar[bool] = False
    """Whether what those take is."""
    stops_on_hopper: ClassVar[bool] = False
    """Whether they raise there with some releases of Triton."""
    working_set_modelled: ClassVar[bool] = False
    """Whether the default path's forward pass is modelled."""

    name: str
    D: int
    N: int
    H: int
    C: int
    latent: bool = True
    flat: bool = False
    full_gate: bool = False
    decays: int | None = None
    modelled: bool = False

    def _matrices(self) -> Iterator[Linear]:
        D: Axes = (("D", self.D),)
        heads: Axes = (("N", self.N), ("H", self.H))
        for name in ("q_proj", "k_proj", "v_proj"):
            yield Linear(f"{self.name}.{name}", D, heads, "mixer")
        yield Linear(f"{self.name}.b_proj", D, (("N", self.N),), "mixer")
        for name in ("forget_gate.f", "g"):
            if self.latent and not (self.full_gate and name == "g"):
                yield Linear(f"{self.name}.{name}_a_proj", D, (("R", self.H),), "mixer")
                yield Linear(f"{self.name}.{name}_b_proj", (("R", self.H),), heads, "mixer")
            else:
                yield Linear(f"{self.name}.{name}_proj", D, heads, "mixer")
        yield Linear(f"{self.name}.o_proj", heads, D, "mixer")

    def weights(self) -> Iterator[Tensor]:
        """Projections, convolution, decay of every head and channel, norm of the output."""
        for matrix in self._matrices():
            yield from matrix.weights()
        yield Tensor(f"{self.name}.conv1d.weight", (("I", 3 * self.N * self.H), ("X", 1), ("C", self.C)), "mixer")
        yield Tensor(f"{self.name}.forget_gate.dt_bias", (("N", self.N), ("H", self.H)), "mixer", (2,))
        decay: Axes = (("N", self.decays or self.N),)
        if self.latent and not self.flat:
            decay = (("X", 1), ("X", 1), *decay, ("X", 1))
        yield Tensor(f"{self.name}.forget_gate.A_log", decay, "mixer")
        yield from Norm(f"{self.name}.o_norm", (("H", self.H),)).weights()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """The convolution's last inputs and a matrix a head, for any ``S``."""
        yield Tensor("conv_states", (("B", B), ("I", 3 * self.N * self.H), ("C", self.C)), "state")
        axes: Axes = (("B", B), ("N", self.N), ("H", self.H), ("X", self.H))
        yield Tensor("recurrent_states", axes, "state", dtype="fp32")

    def forward(self, f: Forward, x: Value) -> Value:
        """In operations of torch."""
        if f.mixer is None:
            raise untold("Kimi delta attention outside of a training step on the next token")
        if not self.modelled:
            raise untold("Kimi delta attention of this family")
        if f.mixer.package is not None:
            raise untold("Kimi delta attention by the kernels of fla", hint="leave --kernels out")
        tape, heads = f.tape, (*x.axes[:2], ("N", self.N), ("H", self.H))
        projected = tuple(self._through(f, x, f"{part}_proj") for part in "qkv")
        mixed = [ops.cat(projected, (*x.axes[:2], ("I", 3 * self.N * self.H)), "channels")]
        del projected
        channels = convolved(f, mixed, f"{self.name}.conv1d", self.C, "silu")
        part = ("I", self.N * self.H)
        q, k, v = (p.view(heads) for p in ops.split(channels, ((*x.axes[:2], part),) * 3))
        gate = f"{self.name}.forget_gate"
        g = kimi_rule.decays(
            self._through(f, x, "f_a_proj", "f_b_proj"),
            tape.parameter(f"{gate}.A_log", (("X", 1), ("X", 1), ("N", self.N), ("X", 1))),
            tape.parameter(f"{gate}.dt_bias", heads[2:]),
        )
        beta = ops.unary(self._through(f, x, "b_proj"), "sigmoid", saves="output")
        out = kimi_rule.delta_rule(q, k, v, g, beta)
        weight = tape.parameter(f"{self.name}.o_norm.weight", (("H", self.H),))
        normed = kimi_rule.norm_gated(out, self._through(f, x, "g_a_proj", "g_b_proj"), weight)
        return self._through(f, normed, "o_proj")

    def _through(self, f: Forward, x: Value, *names: str) -> Value:
        for name in names:
            x = next(m for m in self._matrices() if m.name.endswith(f".{name}")).forward(f, x)
        return x


def convolved(f: Forward, given: list[Value], path: str, C: int, act: str, *, cut: bool = True) -> Value:
    """A causal convolution of all channels in operations of torch; lets go of what was given.

    ``cut`` where the code takes as many of its last tokens as there are, which hands back a whole gradient.
    """
    before = given[0].axes
    turned = delta_rule.transposed(given.pop())
    turned = scan.convolution(f.tape, turned, path, C, False, act)
    return (ops.narrow(turned, turned.axes) if cut else turned).view(before)
