"""OLMoE: OLMo 2's norms of queries and keys, pre-norm layers, small experts."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, heads
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``OlmoeForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k)
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    bias = k.want("attention_bias", False)
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        bias=bias,
        o_bias=bias,
        q_norm=Norm("self_attn.q_norm", (("N", N), ("H", H))),
        k_norm=Norm("self_attn.k_norm", (("K", K), ("H", H))),
        norm_inline=True,
        dropout=k.want("attention_dropout", 0.0),
        clip=k.optional("clip_qkv", float) is not None,
    )
    E = k.need("num_experts")
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=k.need("intermediate_size"),
        act=k.want("hidden_act", "silu"),
        normalised=k.want("norm_topk_prob", False),
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
        positions=k.want("max_position_embeddings", 4096),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/olmoe/modeling_olmoe.py",
    attributes={"num_experts": "num_local_experts"},
)
