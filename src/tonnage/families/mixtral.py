"""Mixtral: Mistral with experts in place of the feed-forward."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, heads, window_of
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``MixtralForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 8)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    k.refuse("layer_types")
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        window=window_of(k),
        dropout=k.want("attention_dropout", 0.0),
    )
    E = k.need("num_local_experts")
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 2),
        F=k.need("intermediate_size"),
        act=k.want("hidden_act", "silu"),
        routing="softmax-fp32",
    )
    norm = (("D", D),)
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, before=Norm("input_layernorm", norm)),
            Sublayer(block=experts, before=Norm("post_attention_layernorm", norm)),
        )
    )
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=(layer,) * L,
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 131072),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mixtral/modeling_mixtral.py",
    attributes={"num_local_experts": "num_experts"},
)
