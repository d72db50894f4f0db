"""Attention, feed-forward and layer as most decoders' configs describe them; what differs is an argument."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.eager import EagerStyle
from tonnage.arch.feedforward import Gated, Plain
from tonnage.arch.layers import Norm, NormStyle, Rotary
from tonnage.arch.model import Block, Layer, Model, Sublayer
from tonnage.families._decoder import causal, heads
from tonnage.keys import Keys

SHIFTED: Final = ("layer", "layer-one")
"""Styles of norm that have a shift beside their scale."""


def attention(
    k: Keys, D: int, *, K: int | None = None, H: int | None = None, biased: bool = False, **more: Any
) -> GroupedQuery:
    """Self-attention: ``K``, ``H`` and ``biased`` are transformers' defaults, ``more`` what else the kind is told.

    A head that neither the config nor a default tells is an even part of the width.
    """
    N, K = heads(k, K)
    H = k.optional("head_dim", int, H) or k.divides("hidden_size", "num_attention_heads", D, N)
    if "bias" not in more:
        more["bias"] = k.want("attention_bias", biased)
        more.setdefault("o_bias", more["bias"])
    return GroupedQuery(name="self_attn", D=D, N=N, K=K, H=H, **{"dropout": k.want("attention_dropout", 0.0), **more})


def normed_heads(
    token: GroupedQuery,
    *,
    style: NormStyle = "rms",
    whole: bool = False,
    names: tuple[str, str] = ("q_norm", "k_norm"),
    **more: Any,
) -> GroupedQuery:
    """The same attention with norms of queries and keys, over a head or, where ``whole``, over all of them."""
    (q, k), heads = names, (("N", token.N), ("K", token.K))
    q_norm, k_norm = (
        Norm(f"{token.name}.{name}", ((*([of] if whole else []), ("H", token.H))), style)
        for name, of in zip((q, k), heads, strict=True)
    )
    return token.but(q_norm=q_norm, k_norm=k_norm, **more)


def turned_in_windows(token: GroupedQuery, seen: int | None, *, everywhere: bool = False) -> GroupedQuery:
    """The same attention in a layer that sees ``seen`` tokens: positions only where that is a window.

    ``everywhere``: no layer has a window, and so all have positions.
    """
    return token.but(window=seen, rotary="default" if everywhere or seen is not None else None)


def gated(k: Keys, D: int, **more: Any) -> Gated:
    """The three matrices of a gated feed-forward block."""
    return Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "silu"), **more)


def plain(k: Keys, D: int, act: str, *, up: str = "up_proj", down: str = "down_proj", **more: Any) -> Plain:
    """The two matrices of a plain feed-forward block."""
    return Plain(
        name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", act), up=up, down=down, **more
    )


def normed_before(
    token: Block,
    channel: Block,
    D: int,
    *,
    style: NormStyle = "rms",
    names: tuple[str, str] = ("input_layernorm", "post_attention_layernorm"),
    kind: str = "layer",
    **more: Any,
) -> Layer:
    """Two blocks, each behind a norm; ``more`` is what both of them are told."""
    bias, weight = style in SHIFTED, style != "rms-bare"
    first, second = (Norm(name, (("D", D),), style, bias=bias, weight=weight) for name in names)
    return Layer(
        sublayers=(Sublayer(block=token, before=first, **more), Sublayer(block=channel, before=second, **more)),
        kind=kind,
    )


def normed_after(token: Block, channel: Block, D: int, *, style: NormStyle = "rms", kind: str = "layer") -> Layer:
    """Two blocks, each with a norm behind it."""
    first, second = (
        Norm(name, (("D", D),), style) for name in ("post_attention_layernorm", "post_feedforward_layernorm")
    )
    return Layer(sublayers=(Sublayer(block=token, after=first), Sublayer(block=channel, after=second)), kind=kind)


def fairseq_layer(
    k: Keys, D: int, N: int, F: int, *, act: str, dropout: float, attention_dropout: float, eager: EagerStyle
) -> Layer:
    """A layer as fairseq names its parts: norms before, biases everywhere (XGLM, BioGPT)."""
    token = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=N,
        H=k.divides("hidden_size", "num_attention_heads", D, N),
        o="out_proj",
        bias=True,
        o_bias=True,
        rotary=None,
        scaled_queries=eager == "floored",
        dropout=attention_dropout,
        eager=eager,
    )
    channel = Plain(name="", D=D, F=F, act=act, inner_dropout=k.want("activation_dropout", 0.0))
    names = ("self_attn_layer_norm", "final_layer_norm")
    layer = normed_before(token, channel, D, style="layer", names=names, dropout=dropout)
    # The feed-forward block is written out in the layer; XGLM's calls are nested, so that its input keeps its name.
    return layer.but(sublayers=(layer.sublayers[0], layer.sublayers[1].but(inline=eager != "floored")))


def decoder(
    k: Keys,
    D: int,
    layers: tuple[Layer, ...],
    *,
    width: int,
    positions: int,
    tied: bool = False,
    outer: Keys | None = None,
    style: NormStyle = "rms",
    norm: str = "norm",
    path: str = "model",
    **more: Any,
) -> Model:
    """The model around its layers: ``width`` elements of a head are turned, ``positions`` and ``tied`` are defaults.

    ``outer`` is the config around this one: it tells whether the head is tied.
    """
    last = Norm(f"{path}.{norm}", (("D", D),), style, bias=style in SHIFTED, weight=style != "rms-bare")
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=layers,
        norm=last,
        tied=(outer or k).want("tie_word_embeddings", tied),
        positions=k.size("max_position_embeddings", positions),
        path=path,
        **{"rotary": (Rotary(f"{path}.rotary_emb", width),), **more},
    )
