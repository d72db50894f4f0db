"""Phi-3.5-MoE: Mixtral's structure with layer norms and experts that are drawn by a sparse mixer."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, heads, window_of
from tonnage.families._experts import stacked
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``PhimoeForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 8)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    bias, norm = k.want("attention_bias", False), (("D", D),)
    k.refuse("layer_types")
    k.skip("input_jitter_noise", "original_max_position_embeddings")
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        bias=bias,
        o_bias=bias,
        window=window_of(k),
        dropout=k.want("attention_dropout", 0.0),
    )
    E = k.size("num_local_experts", 16)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 2),
        F=k.need("intermediate_size"),
        act=k.want("hidden_act", "silu"),
        routing="own",
        router="router",
    )
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=stacked(
            lambda _: attention, (None,) * L, experts, None, (True,) * L, lambda name: Norm(name, norm, "layer", True)
        ),
        norm=Norm("model.norm", norm, "layer", True),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 131072),
        head_bias=k.want("lm_head_bias", False),
    ).but(subclassed=("mlp.router",))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/phimoe/modeling_phimoe.py",
)
