"""gpt-oss: attention with sinks, a window on every other layer, experts with biases and a clamped gate."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, heads, window_of, windows
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``GptOssForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 8)
    H, bias, dropout = k.want("head_dim", 64), k.want("attention_bias", True), k.want("attention_dropout", 0.0)
    k.skip("experts_per_token", "initial_context_length", "hidden_act", "swiglu_alpha", "swiglu_limit")
    E = k.need("num_local_experts")
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 4),
        F=k.need("intermediate_size"),
        routing="softmax-top",
        router="router",
        bias=True,
        transposed=True,
        clamp="sigmoid",
    )
    norm = (("D", D),)
    window = window_of(k, 128)
    seen = windows(k, L, window, lambda i: i % 2 == 0)

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
            rotary_style="chunked",
            window=window,
            sinks=True,
            eager="sinks",
            dropout=dropout,
        )
        return Layer(
            sublayers=(
                Sublayer(block=attention, before=Norm("input_layernorm", norm, "rms-fp32-weight")),
                Sublayer(block=experts, before=Norm("post_attention_layernorm", norm, "rms-fp32-weight")),
            ),
            kind="full layer" if window is None else "sliding layer",
        )

    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=tuple(map(layer, seen)),
        norm=Norm("model.norm", norm, "rms-fp32-weight"),
        rotary=(Rotary("model.rotary_emb", H, halves=1),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 131072),
        eager_only=True,
        masks=(None, window) if window is not None else (),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gpt_oss/modeling_gpt_oss.py",
    attributes={"num_local_experts": "num_experts"},
)
