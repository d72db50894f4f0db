"""Qwen3 mixture of experts: Qwen3 with small experts and none that every token uses."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, heads, sparse, used_window
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Qwen3MoeForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 4)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    bias, act = k.want("attention_bias", False), k.want("hidden_act", "silu")
    norm, head = (("D", D),), (("H", H),)
    k.refuse("layer_types")
    k.skip("max_window_layers")
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        bias=bias,
        o_bias=bias,
        q_norm=Norm("self_attn.q_norm", head),
        k_norm=Norm("self_attn.k_norm", head),
        norm_inline=True,
        window=used_window(k),
        dropout=k.want("attention_dropout", 0.0),
    )
    dense = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act)
    E = k.need("num_experts")
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=k.want("moe_intermediate_size", 768),
        act=act,
        normalised=k.want("norm_topk_prob", False),
    )

    @cache
    def layer(routed: bool) -> Layer:
        return Layer(
            sublayers=(
                Sublayer(block=attention, before=Norm("input_layernorm", norm)),
                Sublayer(block=experts if routed else dense, before=Norm("post_attention_layernorm", norm)),
            ),
            kind="layer with experts" if routed else "dense layer",
        )

    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=tuple(map(layer, sparse(k, L))),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 32768),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3_moe/modeling_qwen3_moe.py",
    attributes={"num_experts": "num_local_experts"},
)
