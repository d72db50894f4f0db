"""OLMo: Llama's structure with norms that have no weight, and optionally clamped queries, keys and values."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, heads
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``OlmoForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    bias = k.want("attention_bias", False)
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        bias=bias,
        o_bias=bias,
        rotary_style="back",
        dropout=k.want("attention_dropout", 0.0),
        clip=k.optional("clip_qkv", float) is not None,
    )
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "silu"))
    norm = (("D", D),)
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, before=Norm("input_layernorm", norm, "layer-fp32", weight=False)),
            Sublayer(block=mlp, before=Norm("post_attention_layernorm", norm, "layer-fp32", weight=False)),
        )
    )
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=(layer,) * L,
        norm=Norm("model.norm", norm, "layer-fp32", weight=False),
        rotary=(Rotary("model.rotary_emb", H, dtype="fp32"),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 2048),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/olmo/modeling_olmo.py",
)
