"""torchtitan's own modules, as its code runs them.

Reference: https://github.com/pytorch/torchtitan/blob/v0.2.2/torchtitan/models/llama3/model/model.py, and
https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/layer_norm.cpp (``rms_norm``: on CUDA one kernel
where input and weight are of one format; older torch writes it out, and keeps a tensor of the input's size more).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from tonnage.arch import ops
from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Stem
from tonnage.arch.forward import Forward
from tonnage.arch.kernels import attend
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Block, Model
from tonnage.arch.stacks.stated import Renamed, can, like, restated, unstored
from tonnage.arch.tape import Grads, Value, needs_grad
from tonnage.releases import Version
from tonnage.tensors import Tensor


class RMSNorm(Norm):
    """``nn.RMSNorm`` as one kernel: keeps its input and a number a row."""

    def forward(self, f: Forward, x: Value) -> Value:
        """Normalise over the last axis."""
        weight = f.tape.parameter(f"{self.name}.weight", self.axes)
        tape, axes, dtype = x.tape, x.axes, x.dtype
        out = tape.new("norm output", axes, dtype)
        rstd = tape.new("norm rstd", (*axes[:-1], ("X", 1)), "fp32")
        flows, makes, own = needs_grad(x), needs_grad(weight), weight.axes

        def back(g: Value) -> Grads:
            gx = tape.new("gradient of norm", axes, dtype) if flows else None
            return gx, tape.new("gradient of norm weight", own, weight.dtype) if makes else None

        tape.record((out,), (x, weight), back, (x, rstd))
        return out


class Table(Rotary):
    """A buffer of complex numbers in fp32 for every position."""

    positions: int = 0

    def weights(self) -> Iterator[Tensor]:
        """One table."""
        yield Tensor(self.name, (("P", self.positions), ("X", self.width // 2), ("X", 2)), "buffer", dtype="fp32")

    def forward(self, f: Forward, x: Value) -> None:
        """Nothing is made: the layers find a part of the buffer."""
        f.rotary[self.key] = (unstored(f, self.width // 2), unstored(f, self.width // 2))


class Attention(GroupedQuery):
    """Queries and keys are turned as complex numbers in fp32; the kernel itself shares the heads of keys and values."""

    bare_flex: ClassVar[bool] = True

    def _attended(self, f: Forward, x: Value) -> Value:
        matrices = self.matrices()
        q, k, v = (matrices[i].forward(f, x) for i in range(3))
        q = q if self.q_norm is None else self.q_norm.forward(f, q)
        k = k if self.k_norm is None else self.k_norm.forward(f, k)
        if self.rotary is not None:
            q, k = self._turned(f, q, k)
        return self._out(f, attend(f, self, q, k, v))

    def _turned(self, f: Forward, q: Value, k: Value) -> tuple[Value, Value]:
        table = f.rotary[self.rotary or ""][0]
        wide = ops.cast(q, "fp32"), ops.cast(k, "fp32")
        q_turned, k_turned = ops.mul(wide[0], table, "turned"), ops.mul(wide[1], table, "turned")
        return ops.cast(q_turned, q.dtype), ops.cast(k_turned, k.dtype)


def model(found: Model, version: Version, rank: int | None) -> Model:
    """The model as torchtitan builds its Llama 3; as it is where its blocks are others."""
    if found.model_type != "llama" or not can(found):
        return found
    positions = found.positions or 4096

    def norm(n: Any) -> Any:
        return like(RMSNorm, n) if isinstance(n, Norm) else n

    def block(b: Block) -> Block:
        made: Block = like(Attention, b) if isinstance(b, GroupedQuery) else b
        return made

    def stem(s: Stem) -> Stem:
        tables = tuple(like(Table, t, positions=positions) for t in s.rotary)
        made: Renamed = like(Renamed, s, rotary=tables, documents=("int32",))
        return made

    return restated(found, block=block, norm=norm, stem=stem)
