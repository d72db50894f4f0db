"""GLM-4.5: grouped-query attention that turns half of every head, DeepSeek-V3's experts, multi-token prediction."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._decoder import causal, heads, rotary_width
from tonnage.families._experts import ahead, even, scored, stacked
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Glm4MoeForCausalLM`` builds, and what its checkpoint stores beside that."""
    D, L, V = k.need("hidden_size"), k.need("num_hidden_layers"), k.need("vocab_size")
    N, K = heads(k, 8)
    H = k.optional("head_dim") or D // N
    turned, norm = even(rotary_width(k, H, 0.5)), (("D", D),)
    normed, head, act = k.want("use_qk_norm", False), (("H", H),), k.want("hidden_act", "silu")
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        bias=k.want("attention_bias", False),
        q_norm=Norm("self_attn.q_norm", head) if normed else None,
        k_norm=Norm("self_attn.k_norm", head) if normed else None,
        rotary_width=turned,
        rotary_style="rebound",
        dropout=k.want("attention_dropout", 0.0),
    )
    first = k.want("first_k_dense_replace", 1)
    layers = stacked(
        lambda _: attention,
        (None,) * L,
        scored(k, D, act, experts=128, used=8, width=1408),
        Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act),
        tuple(i >= first for i in range(L)),
        lambda name: Norm(name, norm),
    )
    further = k.optional("num_nextn_predict_layers", int, 1) or 0
    return causal(
        k,
        V=V,
        D=D,
        layers=layers,
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", turned),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 131072),
        apart=tuple(t for i in range(L, L + further) for t in ahead(layers[-1], i, D, V)),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/glm4_moe/modeling_glm4_moe.py",
    attributes={"n_routed_experts": "num_local_experts", "num_nextn_predict_layers": "num_mtp_layers"},
)
