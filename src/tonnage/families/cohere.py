"""Cohere Command R: attention and feed-forward side by side behind one layer norm, tied and scaled head."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, heads
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``CohereForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    bias, normed = k.want("attention_bias", False), k.want("use_qk_norm", False)
    k.skip("logit_scale", "model_max_length")
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        bias=bias,
        o_bias=bias,
        q_norm=Norm("self_attn.q_norm", (("N", N), ("H", H)), "layer-cohere") if normed else None,
        k_norm=Norm("self_attn.k_norm", (("K", K), ("H", H)), "layer-cohere") if normed else None,
        rotary_style="wide",
        dropout=k.want("attention_dropout", 0.0),
    )
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "silu"))
    norm = (("D", D),)
    layer = Layer(
        sublayers=(Sublayer(block=attention), Sublayer(block=mlp)),
        norm=Norm("input_layernorm", norm, "layer-cohere"),
        parallel=True,
        residual_first=True,
    )
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=(layer,) * L,
        norm=Norm("model.norm", norm, "layer-cohere"),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", True),
        positions=k.want("max_position_embeddings", 8192),
        head_scaled=True,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/cohere/modeling_cohere.py",
)
