"""MiniMax M2: norms over all heads of queries and of keys, part of a head turned, scored experts in every layer."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, heads, rotary_width
from tonnage.families._experts import even, stacked
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``MiniMaxM2ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 8)
    H, norm = k.size("head_dim", 128), (("D", D),)
    width = k.optional("rotary_dim")
    turned = even(rotary_width(k, H, 1.0 if width is None else width / H))
    k.skip("attn_type_list", "qk_norm_type", "use_qk_norm", "use_routing_bias", "scoring_func", "use_mtp")
    k.skip("num_mtp_modules", "mtp_transformer_layers", "layernorm_full_attention_beta", "layernorm_mlp_beta")
    k.skip("layernorm_linear_attention_beta")
    k.refuse("shared_intermediate_size", 0)
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        q_norm=Norm("self_attn.q_norm", (("N", N), ("H", H))),
        k_norm=Norm("self_attn.k_norm", (("K", K), ("H", H))),
        norm_inline=True,
        rotary_width=turned,
        rotary_style="rebound",
        dropout=k.want("attention_dropout", 0.0),
    )
    E = k.size("num_local_experts", 256)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=k.need("intermediate_size"),
        act=k.want("hidden_act", "silu"),
        routing="sigmoid-narrow",
        corrected=Tensor("mlp.e_score_correction_bias", (("Er", E),), "buffer"),
    )
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=stacked(lambda _: attention, (None,) * L, experts, None, (True,) * L, lambda name: Norm(name, norm)),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", turned),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 196608),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/minimax_m2/modeling_minimax_m2.py",
    attributes={"num_local_experts": "num_experts"},
)
