"""LFM2: short convolutions with an attention layer now and then."""

from __future__ import annotations

from typing import Final

from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.short_conv import ShortConv
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder
from tonnage.families._hybrid import FULL, layer_kinds, whole_numbers
from tonnage.keys import Keys

CONV: Final = "conv"


def read(k: Keys) -> Model:
    """Build the model that ``Lfm2ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    full = attention(k, D, K=8).but(bias=False, o_bias=False, dropout=0.0, o="out_proj")
    full = full.but(
        q_norm=Norm("self_attn.q_layernorm", (("H", full.H),)), k_norm=Norm("self_attn.k_layernorm", (("H", full.H),))
    )
    conv = ShortConv(name="conv", D=D, C=k.size("conv_L_cache", 3), bias=k.want("conv_bias", False))
    mlp = Gated(name="feed_forward", D=D, F=_inner(k), gate="w1", up="w3", down="w2")
    attends = whole_numbers(k, "full_attn_idxs")
    k.skip(
        "theta",
        "block_dim",
        "block_mlp_init_scale",
        "block_out_init_scale",
        "block_use_swiglu",
        "block_use_xavier_init",
    )
    k.skip("block_norm_eps", "conv_dim", "conv_dim_out", "conv_use_xavier_init", "use_pos_enc", "num_heads")

    def layer(kind: str) -> Layer:
        return Layer(
            sublayers=(
                Sublayer(block=full if kind == FULL else conv, before=Norm("operator_norm", (("D", D),)), inline=True),
                Sublayer(block=mlp, before=Norm("ffn_norm", (("D", D),)), inline=True),
            ),
            kind="attention" if kind == FULL else "convolution",
        )

    layers = {kind: layer(kind) for kind in (FULL, CONV)}
    kinds = layer_kinds(k, L, lambda i: FULL if attends is None or i in attends else CONV, (FULL, CONV))
    model = decoder(
        k,
        D,
        tuple(layers[kind] for kind in kinds),
        width=full.H,
        positions=128000,
        tied=k.want("tie_embedding", True),
        norm="embedding_norm",
    )
    if "tie_embedding" in k.config and model.head is not None:
        tied = k.want("tie_embedding", True)
        model = model.but(head=model.head.but(alias_of="model.embed_tokens.weight" if tied else None))
    return model


def _inner(k: Keys) -> int:
    """Inner width of the feed-forward block: two thirds of what is told, rounded up, unless told otherwise."""
    F = k.size("block_ff_dim", k.size("intermediate_size", 12288))
    adjusted, factor = k.want("block_auto_adjust_ff_dim", True), k.optional("block_ffn_dim_multiplier", float, 1.0)
    multiple = k.size("block_multiple_of", 256)
    if not adjusted:
        return F
    F = int(2 * F / 3)
    return F if factor is None else -(-int(factor * F) // multiple) * multiple


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/lfm2/modeling_lfm2.py",
)
