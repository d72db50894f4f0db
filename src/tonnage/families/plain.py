"""A model from dimensions alone: the textbook Transformer decoder, with Llama's or GPT-2's pieces."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.feedforward import Gated, Plain
from tonnage.arch.layers import Norm, NormStyle, Rotary
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.families import Family
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build a decoder of those dimensions.

    ``gated``: three feed-forward matrices and RMS norms, rotary positions, no biases, as Llama; without it two
    matrices and layer norms, a table of learned positions where ``positions`` is given, and biases, as GPT-2.
    """
    D, N, L, V = k.need("hidden"), k.need("heads"), k.need("layers"), k.need("vocab")
    gated = k.want("gated", False)
    bias = k.want("bias", not gated)
    K = k.optional("kv_heads") or N
    k.divides("heads", "kv_heads", N, K)
    H = k.optional("head_dim") or k.divides("hidden", "heads", D, N)
    F = k.optional("ffn") or 4 * D
    positions = k.optional("positions")
    tied = k.want("tied", False)
    style: NormStyle = "rms" if gated else "layer"
    mlp = (
        Gated(name="mlp", D=D, F=F, act="silu", bias=bias)
        if gated
        else Plain(name="mlp", D=D, F=F, act="gelu", bias=bias)
    )
    attention = GroupedQuery(
        name="attn", D=D, N=N, K=K, H=H, bias=bias, o_bias=bias, rotary="default" if gated else None
    )
    layer = Layer(
        sublayers=tuple(
            Sublayer(block=block, before=Norm(name, (("D", D),), style, bias=not gated))
            for name, block in (("norm1", attention), ("norm2", mlp))
        )
    )
    table = not gated and positions is not None
    return Model(
        model_type="plain",
        stacks=(
            Stack(
                name="decoder",
                path="layers",
                stem=Stem(
                    name="embedding",
                    V=V,
                    D=D,
                    tables=(Table(name="positions", rows=positions, width=D),) if table and positions else (),
                    rotary=(Rotary("rotary", H),) if gated else (),
                ),
                layers=(layer,) * L,
                norm=Norm("norm", (("D", D),), style, bias=not gated),
            ),
        ),
        head=Head(name="head", D=D, V=V, alias_of="embedding.weight" if tied else None),
        positions=positions,
        table=table,
    )


FAMILY: Final = Family(read=read, source="docs/notation.md: the textbook decoder")
