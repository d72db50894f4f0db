"""torchtune's own modules, as its code runs them.

Reference: https://github.com/pytorch/torchtune/blob/v0.6.1/torchtune/modules/ (rms_norm.py, position_embeddings.py,
attention.py, transformer.py) and models/*/_component_builders.py, where every layer of an adapted model has a table of
rotations of its own, but in Llama 3.1 and later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final

from tonnage.arch import ops
from tonnage.arch.attention import GroupedQuery
from tonnage.arch.eager import repeated
from tonnage.arch.ends import Stem
from tonnage.arch.forward import Forward
from tonnage.arch.kernels import attend
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Block, Model, Sublayer
from tonnage.arch.stacks.stated import Renamed, can, like, restated, unstored
from tonnage.arch.tape import Value
from tonnage.releases import Since, Version, since
from tonnage.tensors import Tensor, halved

WIDE: Final[Since[bool]] = (((0, 5), True), ((0, 0), False))
"""Whether RMS norms are ``F.rms_norm`` in fp32, whose result is cast back; else that is done before the scale."""


class RMSNorm(Norm):
    """In fp32: cast back and times the scale, or, in releases of ``F.rms_norm``, times the scale and cast back."""

    wide: bool = True

    def forward(self, f: Forward, x: Value) -> Value:
        """Normalise over the last axis."""
        weight = f.tape.parameter(f"{self.name}.weight", self.axes)
        wide, before = ops.cast(x, "fp32"), x.dtype
        normed = ops.mul(wide, ops.rsqrt(ops.shifted(ops.mean(ops.power(wide, "square")))), "normalised")
        if self.wide:
            del wide
            return ops.cast(ops.mul(normed, weight, "norm output"), before)
        return ops.mul(ops.cast(normed, before), weight, "norm output")


class Table(Rotary):
    """A buffer of cosines and sines for every position of the model, in fp32."""

    positions: int = 0
    shared: bool = True

    def weights(self) -> Iterator[Tensor]:
        """Frequencies and table, where the layers share them."""
        if self.shared:
            yield from _table(self.name, self.width, self.positions)

    def forward(self, f: Forward, x: Value) -> None:
        """Nothing is made: the layers find a part of the buffer."""
        f.rotary[self.key] = (unstored(f, self.width // 2), unstored(f, self.width // 2))


def _table(name: str, width: int, positions: int) -> tuple[Tensor, ...]:
    half = ("X", width // 2)
    return (
        Tensor(f"{name}.theta", (half,), "buffer", dtype="fp32"),
        Tensor(f"{name}.cache", (("P", positions), half, ("X", 2)), "buffer", dtype="fp32"),
    )


class Attention(GroupedQuery):
    """``MultiHeadAttention``: queries, then keys, turned in fp32; keys and values repeated before the kernel."""

    repeats: ClassVar[bool] = True
    bare_flex: ClassVar[bool] = True

    def _attended(self, f: Forward, x: Value) -> Value:
        matrices = self.matrices()
        q = self._turned(f, matrices[0].forward(f, x))
        q = q if self.q_norm is None else self.q_norm.forward(f, q)
        k, v = matrices[1].forward(f, x), matrices[2].forward(f, x)
        k = self._turned(f, k)
        k = k if self.k_norm is None else self.k_norm.forward(f, k)
        if self.K != self.N:
            k, v = repeated(k, self.N), repeated(v, self.N)
        out = attend(f, self.but(K=self.N), q, k, v)
        return self._out(f, out)

    def _turned(self, f: Forward, x: Value) -> Value:
        """Neighbours by the table: cast to fp32, four products, joined, cast back."""
        if self.rotary is None:
            return x
        table = f.rotary[self.rotary][0]
        if f.kernel == "flex":
            # Tokens of a packed row say where in their documents they stand: each call looks its angles up.
            (_, batch), (_, tokens) = x.axes[:2]
            table = f.tape.new("angles of tokens", (("B", batch), ("T", tokens), *table.axes[1:], ("X", 2)), "fp32")
        half, before, whole = halved(x.axes, "H"), x.dtype, x.axes
        wide = ops.cast(x, "fp32")

        def product() -> Value:
            return ops.mul(ops.narrow(wide, half), table, "turned")

        out = ops.cat((ops.sub(product(), product()), ops.add(product(), product())), whole, "rotated")
        return ops.cast(out, before)


def model(found: Model, version: Version, rank: int | None) -> Model:
    """The model as torchtune builds it; as it is where its blocks are others.

    Args:
        found: as transformers runs it.
        version: of torchtune.
        rank: of adapters; None where the whole model is trained.
    """
    if not can(found) or any(getattr(s.block, "fused", None) for s in found.decoder.layers[0].sublayers):
        return found
    positions = found.positions or 4096
    tables = found.decoder.stem.rotary
    apart = rank is not None and not any(t.factored for t in tables)

    def norm(n: Any) -> Any:
        return like(RMSNorm, n, wide=since(version, WIDE)) if isinstance(n, Norm) and n.style == "rms" else n

    def block(b: Block) -> Block:
        if not isinstance(b, GroupedQuery):
            return b
        own = _table(f"{b.name}.pos_embeddings", b.rotary_width or b.H, positions) if apart and b.rotary else ()
        made: Attention = like(Attention, b, buffers=own, q_norm=norm(b.q_norm), k_norm=norm(b.k_norm))
        return made

    def stem(s: Stem) -> Stem:
        rotary = tuple(like(Table, t, positions=positions, shared=not apart) for t in s.rotary)
        made: Renamed = like(Renamed, s, rotary=rotary, documents=("int64", "int64"))
        return made

    return restated(found, block=block, norm=norm, sublayer=_held, stem=stem)


def _held(s: Sublayer) -> Sublayer:
    """The layer's code names every block's output."""
    return s.but(holds=True)
