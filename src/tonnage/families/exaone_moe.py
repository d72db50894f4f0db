"""K-EXAONE: normed queries and keys, a window on three of four layers and positions only there, scored experts."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._decoder import causal, every, heads, window_of, windows
from tonnage.families._experts import routed, scored, stacked
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``ExaoneMoeForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 32)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    norm, head, act, dropout = (("D", D),), (("H", H),), k.want("hidden_act", "silu"), k.want("attention_dropout", 0.0)
    window = window_of(k, 4096)
    if k.config.get("layer_types") is None and window is not None:
        pattern = every(k, "sliding_window_pattern", 4)
    else:
        pattern = 1
        k.skip("sliding_window_pattern")
    seen = windows(k, L, window, lambda i: (i + 1) % pattern != 0)
    k.skip("num_nextn_predict_layers")

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
            scored(k, D, act, experts=64, used=8, width=1024, key="num_experts", shared_key="num_shared_experts"),
            Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act),
            routed(k, L, k.want("first_k_dense_replace", 1)),
            lambda name: Norm(name, norm),
        ),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 2048),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/exaone_moe/modeling_exaone_moe.py",
)
