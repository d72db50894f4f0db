"""Qwen2 and Qwen2.5: Llama's structure with biases on queries, keys and values, and windows on the upper layers."""

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
    """Build the model that ``Qwen2ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 32)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    dropout = k.want("attention_dropout", 0.0)
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "silu"))
    k.refuse("use_mrope")
    norm = (("D", D),)
    lowest = k.want("max_window_layers", 28)
    seen = windows(k, L, used_window(k), lambda i: i >= lowest)

    @cache
    def layer(window: int | None) -> Layer:
        attention = GroupedQuery(name="self_attn", D=D, N=N, K=K, H=H, bias=True, window=window, dropout=dropout)
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
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen2/modeling_qwen2.py",
)
