"""FlexOlmo: OLMo 2's attention and norms behind the blocks, OLMoE's experts."""

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
    """Build the model that ``FlexOlmoForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    bias, norm = k.want("attention_bias", False), (("D", D),)
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        bias=bias,
        o_bias=bias,
        q_norm=Norm("self_attn.q_norm", (("N", N), ("H", H)), "rms-fp32-weight"),
        k_norm=Norm("self_attn.k_norm", (("K", K), ("H", H)), "rms-fp32-weight"),
        norm_inline=True,
        rotary_style="back",
        dropout=k.want("attention_dropout", 0.0),
    )
    E = k.size("num_experts", 7)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 5),
        F=k.need("intermediate_size"),
        act=k.want("hidden_act", "silu"),
        normalised=k.want("norm_topk_prob", False),
    )
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, after=Norm("post_attention_layernorm", norm, "rms-fp32-weight")),
            Sublayer(block=experts, after=Norm("post_feedforward_layernorm", norm, "rms-fp32-weight")),
        )
    )
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=(layer,) * L,
        norm=Norm("model.norm", norm, "rms-fp32-weight"),
        rotary=(Rotary("model.rotary_emb", H, dtype="fp32"),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 4096),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/flex_olmo/modeling_flex_olmo.py",
    attributes={"num_local_experts": "num_experts"},
)
