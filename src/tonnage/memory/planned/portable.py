"""The program of a decoder that no backend takes: every operation is a step of its own, in fp32 or bf16.

Read in pytorch/executorch 1.5.1, as ``decoder``; exported with ``use_kv_cache`` and ``use_sdpa_with_kv_cache``
alone. With bf16, norms, rotations and the activation are computed in fp32 between two copies.
"""

from __future__ import annotations

from typing import Final

from tonnage.memory.planned.decoder import SCALAR, UPDATED, Decoder
from tonnage.memory.planned.greedy import Life
from tonnage.memory.planned.program import Program, Tensor

FP32: Final = 4


class _Wide(Program):
    """Steps of which some compute in fp32."""

    def wide(self, x: Tensor, elements: int) -> Tensor:
        """A tensor in fp32: itself where it is."""
        return x if self.element == FP32 else self.step((x,), elements, element=FP32)[0]

    def narrow(self, x: Tensor, elements: int) -> Tensor:
        """And back."""
        return x if self.element == FP32 else self.step((x,), elements)[0]

    def full(self, reads: tuple[Tensor, ...], elements: int) -> Tensor:
        """A step in fp32."""
        return self.step(reads, elements, element=FP32)[0]

    def one(self, reads: tuple[Tensor, ...], elements: int) -> Tensor:
        """A step in the program's own format."""
        return self.step(reads, elements)[0]


def lives(d: Decoder) -> list[Life]:
    """Every tensor of the program but the caches."""
    p, S, D = _Wide(d.element), d.tokens, d.width
    x = p.one((), S * D)
    _read(p)
    cosine, sine = p.one((), S * d.turned // 2), p.one((), S * d.turned // 2)
    for _ in range(d.layers):
        x = p.one((x, _attention(p, d, _normed(p, x, S, D), cosine, sine)), S * D)
        n = _normed(p, x, S, D)
        gate = p.one((n,), S * d.inner)
        gate = p.wide(gate, S * d.inner)
        inner = p.full((gate, p.full((gate,), S * d.inner)), S * d.inner)
        inner = p.narrow(inner, S * d.inner)
        inner = p.one((inner, p.one((n,), S * d.inner)), S * d.inner)
        x = p.one((x, p.one((inner,), S * D)), S * D)
    logits = p.one((_normed(p, p.one((x,), D), 1, D),), d.vocabulary)
    p.step((logits,))
    return p.lives()


def _read(p: Program) -> None:
    """A position is read out of the input."""
    (position,) = p.step((), 1, element=SCALAR)
    p.step((position,))


def _normed(p: _Wide, x: Tensor, S: int, D: int) -> Tensor:
    x = p.wide(x, S * D)
    scale = p.full((x,), S * D)
    for _ in ("mean", "epsilon", "inverse root"):
        scale = p.full((scale,), S)
    return p.one((p.narrow(p.full((x, scale), S * D), S * D),), S * D)


def _attention(p: _Wide, d: Decoder, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    S = d.tokens
    queries, keys = S * d.heads * d.head, S * d.kv_heads * d.head
    q, k, v = p.one((x,), queries), p.one((x,), keys), p.one((x,), keys)
    halves = []
    for each, n in ((q, queries), (k, keys)):
        wide = p.wide(each, n)
        parts = [p.full((wide,), n // 2), p.full((wide,), n // 2)]
        halves.append((n, [p.full((part,), n // 2) for part in parts]))
    tables = (cosine, sine, S * d.turned // 2)
    turned = [_turned(p, n // 2, (parts[0], parts[1]), tables) for n, parts in halves]
    joined = []
    for (n, _), (real, imaginary) in zip(halves, turned, strict=True):
        joined.append(p.full((p.full((real,), n // 2), p.full((imaginary,), n // 2)), n))
    q, k = p.narrow(joined[0], queries), p.narrow(joined[1], keys)
    _read(p)
    p.step((k,), 1, element=UPDATED)
    p.step((v,), 1, element=UPDATED)
    _read(p)
    return p.one((p.one((q,), queries),), S * d.width)


def _turned(
    p: _Wide, n: int, parts: tuple[Tensor, Tensor], tables: tuple[Tensor, Tensor, int]
) -> tuple[Tensor, Tensor]:
    (real, imaginary), (cosine, sine, table) = parts, tables
    out = []
    for first, second in ((cosine, sine), (sine, cosine)):
        a = p.full((real, p.wide(first, table)), n)
        b = p.full((imaginary, p.wide(second, table)), n)
        out.append(p.full((a, b), n))
    return out[0], out[1]
