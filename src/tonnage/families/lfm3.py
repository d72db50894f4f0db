"""LFM3: short convolutions between layers of full and sliding attention with a gate for every head."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.mixers.short_conv import ShortConv
from tonnage.arch.model import Block, Layer, Model, Sublayer
from tonnage.arch.untraced import Untraced
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, normed_heads
from tonnage.families._decoder import window_of
from tonnage.families._hybrid import FULL, SLIDING, layer_kinds
from tonnage.keys import Keys

CONV: Final = "conv"


def read(k: Keys) -> Model:
    """Build the model that ``Lfm3ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    full = attention(k, D, K=4, H=128)
    full = normed_heads(full)
    gate = Linear("self_attn.g_proj", (("D", D),), (("N", full.N),), "attention")
    beside = tuple(gate.weights()) if k.want("use_attention_gate", True) else ()
    conv = ShortConv(name="conv", D=D, C=k.size("conv_L_cache", 7), bias=k.want("conv_bias", False))
    mlp = Gated(name="feed_forward", D=D, F=k.need("intermediate_size"), gate="w1", up="w3", down="w2")
    window, sandwich = window_of(k, 256), k.want("use_sandwich_norm", True)
    kinds = layer_kinds(
        k, L, lambda i: FULL if i % 4 == 2 else SLIDING if i % 4 == 0 and i > 0 else CONV, (FULL, SLIDING, CONV)
    )
    if SLIDING in kinds and window is None:
        raise ConfigError("layer_types has sliding layers but there is no sliding_window", key="sliding_window")

    def norm(name: str) -> Norm:
        return Norm(name, (("D", D),))

    @cache
    def layer(kind: str) -> Layer:
        attends = full.but(window=window if kind == SLIDING else None, rotary=kind)
        token: Block = conv if kind == CONV else Untraced(block=attends, what="LFM3's attention", beside=beside)
        after = norm("post_operator_norm"), norm("post_ffn_norm")
        return Layer(
            sublayers=(
                Sublayer(block=token, before=norm("operator_norm"), after=after[0] if sandwich else None),
                Sublayer(block=mlp, before=norm("ffn_norm"), after=after[1] if sandwich else None),
            ),
            kind={CONV: "convolution", FULL: "full attention", SLIDING: "sliding attention"}[kind],
        )

    return decoder(
        k,
        D,
        tuple(map(layer, kinds)),
        width=full.H,
        positions=128000,
        tied=True,
        norm="embedding_norm",
        rotary=tuple(
            Rotary("model.rotary_emb", full.H, kind, buffers=(f"{kind}_inv_freq", f"{kind}_original_inv_freq"))
            for kind in sorted({FULL, SLIDING} & set(kinds))
        ),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/lfm3/modeling_lfm3.py",
    attributes={"rms_norm_eps": "norm_eps"},
)
