"""Kolibri 1: normed queries and keys, positions in sliding layers only, four norms a layer, many small experts."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, heads, window_of, windows
from tonnage.families._experts import shared_expert, stacked
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Kolibri1ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 4)
    H = k.size("head_dim", 128)
    norm, head, act, dropout = (("D", D),), (("H", H),), k.want("hidden_act", "silu"), k.want("attention_dropout", 0.0)
    window = window_of(k, 513)
    k.skip("routed_scaling_factor")
    seen = windows(k, L, window, lambda i: (i + 1) % 5 != 0)
    E = k.size("num_experts", 384)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 6),
        F=k.size("moe_intermediate_size", 512),
        act=act,
        routing="own",
        normalised=k.want("norm_topk_prob", False),
        correction=True,
        shared=shared_expert(D, k.size("shared_expert_intermediate_size", 512), act),
    )

    def attention(seen: int | None) -> GroupedQuery:
        return GroupedQuery(
            name="self_attn",
            D=D,
            N=N,
            K=K,
            H=H,
            q_norm=Norm("self_attn.q_norm", head),
            k_norm=Norm("self_attn.k_norm", head),
            rotary="default" if window is None or seen is not None else None,
            window=seen,
            dropout=dropout,
        )

    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=stacked(
            attention,
            seen,
            experts,
            None,
            (True,) * L,
            lambda name: Norm(name, norm),
            names=("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),
        ),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 262144),
        masks=(None, window) if window is not None else (),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/kolibri1/modeling_kolibri1.py",
    attributes={"num_experts": "num_local_experts"},
)
