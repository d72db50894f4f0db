"""Qwen3: Qwen2 without its biases and with a norm of every query and key head."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, heads, used_window, windows
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Qwen3ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 32)
    H = k.want("head_dim", 128)
    bias, dropout = k.want("attention_bias", False), k.want("attention_dropout", 0.0)
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "silu"))
    norm, head = (("D", D),), (("H", H),)
    lowest = k.want("max_window_layers", 28)
    seen = windows(k, L, used_window(k), lambda i: i >= lowest)

    @cache
    def layer(window: int | None) -> Layer:
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
            norm_inline=True,
            window=window,
            dropout=dropout,
        )
        return Layer(
            sublayers=(
                Sublayer(block=attention, before=Norm("input_layernorm", norm)),
                Sublayer(block=mlp, before=Norm("post_attention_layernorm", norm)),
            ),
            kind="layer" if window is None else "sliding layer",
        )

    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=tuple(map(layer, seen)),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 32768),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3/modeling_qwen3.py",
)
