"""OLMo 2: norms behind attention and feed-forward instead of before them, and norms over all query and key heads."""

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
    """Build the model that ``Olmo2ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    bias = k.want("attention_bias", False)
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
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "silu"))
    norm = (("D", D),)
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, after=Norm("post_attention_layernorm", norm, "rms-fp32-weight")),
            Sublayer(block=mlp, after=Norm("post_feedforward_layernorm", norm, "rms-fp32-weight")),
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
        positions=k.want("max_position_embeddings", 2048),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/olmo2/modeling_olmo2.py",
)
