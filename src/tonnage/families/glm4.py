"""GLM-4 (0414): norms before and behind attention and feed-forward, half of every head turned."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, heads, rotary_width
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Glm4ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 2)
    H = k.want("head_dim", 128)
    turned = rotary_width(k, H, 0.5)
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        bias=k.want("attention_bias", True),
        rotary_width=turned,
        rotary_style="repeated",
        dropout=k.want("attention_dropout", 0.0),
    )
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "silu"), fused="gate_up_proj")
    norm = (("D", D),)
    layer = Layer(
        sublayers=(
            Sublayer(
                block=attention,
                before=Norm("input_layernorm", norm),
                after=Norm("post_self_attn_layernorm", norm),
            ),
            Sublayer(
                block=mlp,
                before=Norm("post_attention_layernorm", norm),
                after=Norm("post_mlp_layernorm", norm),
            ),
        )
    )
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=(layer,) * L,
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", turned),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 131072),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/glm4/modeling_glm4.py",
)
