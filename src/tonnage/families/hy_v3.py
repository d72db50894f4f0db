"""Hunyuan 3: normed queries and keys, experts chosen by sigmoid scores, combined in fp32."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, heads
from tonnage.families._experts import ahead, routed, shared_expert, stacked
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``HYV3ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 8)
    H = k.size("head_dim", 128)
    norm, head, act = (("D", D),), (("H", H),), k.want("hidden_act", "silu")
    bias, mlp_bias = k.want("attention_bias", False), k.want("mlp_bias", False)
    wide = k.want("enable_moe_fp32_combine", True)
    k.skip("router_scaling_factor", "first_k_dense_replace")
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
        dropout=k.want("attention_dropout", 0.0),
    )
    whole = k.need("intermediate_size")
    E, F = k.size("num_experts", 192), k.size("moe_intermediate_size", 1536)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=F,
        act=act,
        routing="sigmoid-apart",
        order="wide" if wide else "last",
        corrected=Tensor("mlp.e_score_correction_bias", (("Er", E),), "buffer", dtype="fp32"),
        # Without shared experts the modelled code falls back on the width of a dense layer.
        shared=shared_expert(D, F * k.want("num_shared_experts", 1) or whole, act, bias=mlp_bias),
    )
    layers = stacked(
        lambda _: attention,
        (None,) * L,
        experts,
        Gated(name="mlp", D=D, F=whole, act=act, bias=mlp_bias),
        routed(k, L, 1),
        lambda name: Norm(name, norm),
    )
    V, further = k.need("vocab_size"), k.optional("num_nextn_predict_layers") or 0
    return causal(
        k,
        V=V,
        D=D,
        layers=layers,
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 131072),
        apart=tuple(
            t
            for index in range(L, L + further)
            for t in ahead(layers[-1], index, D, V, tables=False, last="final_layernorm")
        ),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/hy_v3/modeling_hy_v3.py",
    attributes={"num_experts": "num_local_experts"},
)
