"""What LFM2 and its variant with experts share: attention with normed queries and keys, short convolutions, layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.mixers.short_conv import ShortConv
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families._blocks import attention, decoder, normed_heads
from tonnage.families._hybrid import FULL
from tonnage.keys import Keys

CONV: Final = "conv"


def lfm2(
    k: Keys, kinds: tuple[str, ...], channels: Callable[[int], Gated | Experts], angles: str = "rotary_emb"
) -> Model:
    """The model of layers of these kinds.

    ``channels`` gives the feed-forward of a layer, one object for like ones; ``angles`` is where the table of angles
    stands.
    """
    D = k.need("hidden_size")
    full = attention(k, D, K=8, bias=False, o_bias=False, dropout=0.0, o="out_proj")
    k.skip("attention_bias", "attention_dropout")
    full = normed_heads(full, names=("q_layernorm", "k_layernorm"))
    conv = ShortConv(name="conv", D=D, C=k.size("conv_L_cache", 3), bias=k.want("conv_bias", False))
    several = len({channels(i) for i in range(len(kinds))}) > 1

    @cache
    def layer(kind: str, channel: Gated | Experts) -> Layer:
        of = f" with {'experts' if isinstance(channel, Experts) else 'one feed-forward'}" if several else ""
        return Layer(
            sublayers=(
                Sublayer(block=full if kind == FULL else conv, before=Norm("operator_norm", (("D", D),))),
                Sublayer(block=channel, before=Norm("ffn_norm", (("D", D),))),
            ),
            kind=("attention" if kind == FULL else "convolution") + of,
        )

    rotary = (Rotary(f"model.{angles}", full.H),)
    layers = tuple(layer(kind, channels(i)) for i, kind in enumerate(kinds))
    # The older name of the key wins.
    tied = k.want("tie_word_embeddings", True)
    tied = k.want("tie_embedding", tied)
    model = decoder(k, D, layers, width=full.H, positions=128000, norm="embedding_norm", rotary=rotary)
    assert model.head is not None
    return model.but(head=model.head.but(alias_of="model.embed_tokens.weight" if tied else None))
