"""Cohere Command R7B and A: Cohere with three sliding layers to a full one; only the sliding ones have positions."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, every, heads, window_of, windows
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Cohere2ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    bias, dropout = k.want("attention_bias", False), k.want("attention_dropout", 0.0)
    k.skip("logit_scale", "cache_implementation", "layer_switch", "order_of_interleaved_layers")
    k.skip("position_embedding_type", "rotary_pct", "use_embedding_sharing", "use_gated_activation")
    k.skip("use_parallel_block", "use_parallel_embedding")
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "silu"))
    norm = (("D", D),)
    pattern = every(k, "sliding_window_pattern", 4)
    window = window_of(k, 4096)
    seen = windows(k, L, window, lambda i: (i + 1) % pattern != 0)

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
            rotary=None if window is None else "default",
            rotary_style="wide",
            window=window,
            dropout=dropout,
        )
        return Layer(
            sublayers=(Sublayer(block=attention), Sublayer(block=mlp)),
            norm=Norm("input_layernorm", norm, "layer-cohere"),
            parallel=True,
            residual_first=True,
            kind="full layer" if window is None else "sliding layer",
        )

    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=tuple(map(layer, seen)),
        norm=Norm("model.norm", norm, "layer-cohere"),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", True),
        positions=k.want("max_position_embeddings", 8192),
        head_scaled=True,
        masks=(None, window) if window is not None else (),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/cohere2/modeling_cohere2.py",
)
