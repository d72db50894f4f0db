"""Llama: grouped-query attention, gated feed-forward, RMS norms, rotary positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.families import Family
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``LlamaForCausalLM`` builds."""
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    V = k.need("vocab_size")
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    mlp_bias = k.want("mlp_bias", False)
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=k.optional("num_key_value_heads") or N,
        H=H,
        bias=k.want("attention_bias", False),
        o_bias=k.want("attention_bias", False),
        dropout=k.want("attention_dropout", 0.0),
    )
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "silu"), bias=mlp_bias)
    norm = (("D", D),)
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, before=Norm("input_layernorm", norm)),
            Sublayer(block=mlp, before=Norm("post_attention_layernorm", norm)),
        )
    )
    tied = k.want("tie_word_embeddings", False)
    return Model(
        model_type="llama",
        stacks=(
            Stack(
                name="decoder",
                path="model.layers",
                stem=Stem(
                    name="model.embed_tokens", V=V, D=D, rotary=(Rotary("model.rotary_emb", H, factored=factored(k)),)
                ),
                layers=(layer,) * k.need("num_hidden_layers"),
                norm=Norm("model.norm", norm),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, alias_of="model.embed_tokens.weight" if tied else None),
        positions=k.want("max_position_embeddings", 2048),
    )


def factored(k: Keys) -> bool:
    """Whether every frequency has a factor of its own (Llama 3.1); it changes no count, so the key stays inert."""
    told = k.config.get("rope_scaling") or k.config.get("rope_parameters")
    return isinstance(told, Mapping) and (told.get("rope_type") or told.get("type")) == "llama3"


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/llama/modeling_llama.py",
)
