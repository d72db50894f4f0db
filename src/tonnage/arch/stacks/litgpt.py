"""litgpt's own modules, as its code runs them.

Reference: https://github.com/Lightning-AI/litgpt/blob/v0.5.13/litgpt/ (model.py, lora.py); release 0.0 is lit-gpt at
0cc02afa of 2023-10-27 (lit_gpt/rmsnorm.py, lit_gpt/model.py, lit_gpt/lora.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from tonnage.arch import ops
from tonnage.arch.attention import GroupedQuery
from tonnage.arch.eager import by_heads, repeated
from tonnage.arch.ends import Stem
from tonnage.arch.feedforward import Plain
from tonnage.arch.forward import Forward
from tonnage.arch.kernels import attend
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Block, Model
from tonnage.arch.rotate import parts, turned
from tonnage.arch.stacks.stated import Renamed, can, like, restated
from tonnage.arch.tape import Grads, Parameter, Value
from tonnage.arch.tuning.tuners import Beside, Frozen, LoRA
from tonnage.releases import Version
from tonnage.tensors import Axes, Tensor, size

if TYPE_CHECKING:
    from tonnage.arch.tuning.adapters import Packed

QKV: Final = "qkv"
"""The one matrix of queries, keys and values."""
NEW: Final[Version] = (0, 1)
"""First release under the new name."""


class RMSNorm(Norm):
    """In fp32 and cast back at the end; the weight is cast first, but not in release 0.0."""

    casts: bool = True

    def forward(self, f: Forward, x: Value) -> Value:
        """Normalise over the last axis."""
        weight, before = f.tape.parameter(f"{self.name}.weight", self.axes), x.dtype
        x = ops.cast(x, "fp32")
        average = ops.mean(ops.mul(x, x, "squares"))
        normed = ops.mul(x, ops.rsqrt(ops.shifted(average)), "normalised")
        if self.casts:
            return ops.cast(ops.mul(normed, ops.weight_in(weight, "fp32"), "norm output"), before)
        return ops.cast(ops.mul(weight, normed, "norm output"), before)


class Tables(Rotary):
    """Cosines and sines of a length, in fp32 whatever the format of the weights: made outside of the step."""

    def forward(self, f: Forward, x: Value) -> None:
        """Put both tables where the layers find them."""
        axes: Axes = (x.axes[1], ("H", self.width))
        f.rotary[self.key] = (f.tape.new("cosines", axes, "fp32"), f.tape.new("sines", axes, "fp32"))

    def weights(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        """None that are counted with the model: their length is that of the longest sample."""
        return ()


class Attention(GroupedQuery):
    """``CausalSelfAttention``: one matrix, of whose output values stay a view; all joined again once turned."""

    old: bool = False
    repeats: ClassVar[bool] = True

    def _attended(self, f: Forward, x: Value) -> Value:
        rows, H = x.axes[:2], ("H", self.H)
        qkv = self.matrices()[0].forward(f, x)
        K: Axes = (*rows, ("K", self.K), H)
        q, k, v = ops.split(qkv, ((*rows, ("N", self.N), H), K, K))
        if self.old and self.K != 1:
            k, v = repeated(k, self.N), repeated(v, self.N)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm.forward(f, q), self.k_norm.forward(f, k)
        if self.rotary is not None:
            q, k = self._turned(f, q, k)
        if not self.old:
            k, v = repeated(k, self.N), repeated(v, self.N)
        out = attend(f, self if self.old and self.K == 1 else self.but(K=self.N), q, k, v)
        return self._out(f, out)

    def _turned(self, f: Forward, q: Value, k: Value) -> tuple[Value, Value]:
        """By tables in fp32, cast back, joined with the rest that is not turned, which may be empty."""
        cosine, sine = f.rotary[self.rotary or ""]
        width = self.rotary_width or self.H
        first, rest = parts(q, width)
        k_first, k_rest = parts(k, width)
        q_turned = ops.cast(turned(first, cosine, sine), q.dtype)
        k_turned = ops.cast(turned(k_first, cosine, sine), k.dtype)
        # The block's code names both to its end.
        f.local += [q_turned, k_turned]
        return ops.cat((q_turned, rest), by_heads(q)), ops.cat((k_turned, k_rest), by_heads(k))


class LitLoRA(LoRA):
    """``LoRALinear`` and ``LoRAQKVLinear``: adapters in the format of the weights, and of the joint matrix for those of
    its three parts that are switched on.

    Args:
        rows: outputs of queries, keys and values.
        on: which of the three have an adapter.
        buffered: where the parts lie is kept; in release 0.0 it is made anew.
    """

    rows: tuple[int, int, int] = (0, 0, 0)
    on: tuple[bool, bool, bool] = (False, False, False)
    buffered: bool = True

    def _joint(self, name: str) -> bool:
        return name.rpartition(".")[2] == QKV

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """Both matrices; of the joint matrix, one rank for each part that is on."""
        if not self._joint(name):
            return super().trained(name, outs, ins)
        wanted = sum(n for n, on in zip(self.rows, self.on, strict=True) if on)
        first: Beside = ("lora_A.weight", (("R", self.rank * sum(self.on)), *ins))
        return first, ("lora_B.weight", (("X", wanted), ("R", self.rank)))

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """Where the parts of the joint matrix lie in it (``lora_ind``)."""
        if not self._joint(name) or all(self.on) or not self.buffered:
            return super().kept(name, outs, ins)
        wanted = sum(n for n, on in zip(self.rows, self.on, strict=True) if on)
        return (("lora_ind", (("X", wanted),), "int64"),)

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen matrix's output with the adapter's added."""
        y = frozen(f, linear, x)
        if self._joint(linear.name):
            added = self._of_parts(f, linear, x)
        else:
            a, b = (found[1] for found in super().trained(linear.name, linear.outs, linear.ins))
            low = ops.linear(
                ops.dropout(x, self.dropout, f.training), self._matrix(f, linear, "A", a), None, len(linear.ins), a[:1]
            )
            added = ops.scaled(ops.linear(low, self._matrix(f, linear, "B", b), None, 1, linear.outs))
            del low
        return ops.add(y, added)

    def _matrix(self, f: Forward, linear: Linear, which: str, axes: Axes) -> Parameter:
        return Parameter(f.tape, f"{linear.name}.lora_{which}.weight", axes, self.dtype, f.tape.grad)

    def _of_parts(self, f: Forward, linear: Linear, x: Value) -> Value:
        a, b = (found[1] for found in self.trained(linear.name, linear.outs, linear.ins))
        low = ops.linear(
            ops.dropout(x, self.dropout, f.training), self._matrix(f, linear, "A", a), None, len(linear.ins), a[:1]
        )
        made = _grouped(low, self._matrix(f, linear, "B", b), b[0])
        # Zeros as wide as the joint output, with the parts put in.
        whole = x.axes[: len(x.axes) - len(linear.ins)] + linear.outs
        added = ops.scaled(made if all(self.on) else _put(made, whole))
        del made, low
        return Value(added.storage, whole, added.dtype, added.node, added.index)


def _grouped(low: Value, weight: Parameter, out: tuple[str, int]) -> Value:
    """``conv1d`` with a kernel of one over the transposed input: keeps input and weight's place."""
    tape, axes = low.tape, low.axes
    low = ops.lowered(low)
    form = low.dtype
    made = tape.new("parts of the joint matrix", (*axes[:2], out), form)
    inner, own = low.axes, weight.axes

    def back(g: Value) -> Grads:
        gx = tape.new("input gradient", inner, form)
        return gx, tape.new("weight gradient", own, weight.dtype)

    tape.record((made,), (low, weight), back, (low,))
    return made


def _put(x: Value, whole: Axes) -> Value:
    """``zeros.index_copy``: keeps the index and what was put in; the gradient is a selection."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    index = tape.new("index", (("X", size(axes[2:])),), "int64")
    out = tape.new("padded with zeros", whole, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("selected gradient", axes, dtype),), (index, x))
    return out


def lora(names: frozenset[str], rank: int, dropout: float, dtype: str, asked: tuple[str, ...], model: Model) -> LoRA:
    """Adapters by the switches that are on."""
    block = next((b for s in model.decoder.layers[0].sublayers if isinstance(b := s.block, Attention)), None)
    if block is None:
        return LoRA(names, rank, dropout, dtype)
    rows = (block.N * block.H, block.K * block.H, block.K * block.value_width)
    q, k, v = (part in asked or QKV in asked for part in ("query", "key", "value"))
    return LitLoRA(names, rank, dropout, dtype, False, {}, rows, (q, k, v), not block.old)


def model(found: Model, version: Version) -> Model:
    """The model as litgpt builds it, which shares no tables; as it is where its blocks are others."""
    if not can(found):
        return found
    old = version < NEW

    def block(b: Block) -> Block:
        if not isinstance(b, GroupedQuery):
            # One kernel, where transformers writes the function out.
            written_out = isinstance(b, Plain) and b.act in ("gelu_new", "gelu_fast")
            return like(type(b), b, act="gelu_pytorch_tanh") if written_out else b
        made: Attention = like(
            Attention, b, fused=QKV, fused_order="split", q_norm=one(b.q_norm), k_norm=one(b.k_norm), old=old
        )
        return made

    def one(n: object) -> object:
        return like(RMSNorm, n, casts=not old) if isinstance(n, Norm) and n.style.startswith("rms") else n

    def stem(s: Stem) -> Stem:
        made: Renamed = like(Renamed, s, rotary=tuple(like(Tables, t) for t in s.rotary))
        return made

    # Whatever class transformers has for a linear module, here it is the same as every other.
    apart = restated(found, block=block, norm=one, stem=stem).but(subclassed=())  # type: ignore[arg-type]
    return apart if apart.head is None else apart.but(head=apart.head.but(alias_of=None))
