"""Qwen1.5-MoE and Qwen2-MoE: Qwen2 with small experts and one gated expert that every token uses."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, heads, sparse, used_window, windows
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Qwen2MoeForCausalLM`` builds.

    It makes a mask for sliding layers even where there are none, with a window of nothing.
    """
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 16)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    bias, dropout, act = k.want("qkv_bias", True), k.want("attention_dropout", 0.0), k.want("hidden_act", "silu")
    dense = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act)
    shared = Gated(
        name="mlp.shared_expert",
        D=D,
        F=k.want("shared_expert_intermediate_size", 5632),
        act=act,
        role="shared_expert",
    )
    E = k.need("num_experts")
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 4),
        F=k.want("moe_intermediate_size", 1408),
        act=act,
        normalised=k.want("norm_topk_prob", False),
        shared=shared,
        shared_gate="shared_expert_gate",
    )
    norm = (("D", D),)
    highest = k.want("max_window_layers", 28)
    window = used_window(k)
    seen = windows(k, L, window, lambda i: i % 2 == 0 and i < highest)

    @cache
    def layer(routed: bool, window: int | None) -> Layer:
        attention = GroupedQuery(name="self_attn", D=D, N=N, K=K, H=H, bias=bias, window=window, dropout=dropout)
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
        layers=tuple(map(layer, sparse(k, L), seen)),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 32768),
        masks=(None, window or 0),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen2_moe/modeling_qwen2_moe.py",
)
