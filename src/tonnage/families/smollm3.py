"""SmolLM3: Llama's structure with every fourth layer left unturned."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._decoder import causal, every, heads, used_window, windows
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``SmolLM3ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 4)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    bias, dropout = k.want("attention_bias", False), k.want("attention_dropout", 0.0)
    mlp = Gated(
        name="mlp",
        D=D,
        F=k.need("intermediate_size"),
        act=k.want("hidden_act", "silu"),
        bias=k.want("mlp_bias", False),
    )
    norm = (("D", D),)
    turned = _turned(k, L)
    seen = windows(k, L, used_window(k, None), lambda i: not turned[i])
    k.skip("max_window_layers")

    @cache
    def layer(turns: bool, window: int | None) -> Layer:
        attention = GroupedQuery(
            name="self_attn",
            D=D,
            N=N,
            K=K,
            H=H,
            bias=bias,
            o_bias=bias,
            rotary="default" if turns else None,
            window=window,
            dropout=dropout,
        )
        return Layer(
            sublayers=(
                Sublayer(block=attention, before=Norm("input_layernorm", norm)),
                Sublayer(block=mlp, before=Norm("post_attention_layernorm", norm)),
            ),
            kind="layer" if turns else "layer without positions",
        )

    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=tuple(map(layer, turned, seen)),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", True),
        positions=k.want("max_position_embeddings", 32768),
    )


def _turned(k: Keys, layers: int) -> tuple[bool, ...]:
    """Which layers turn queries and keys: 1 in ``no_rope_layers``, whatever its name says."""
    step = every(k, "no_rope_layer_interval", 4)
    marks = k.optional("no_rope_layers", list)
    if marks is None:
        return tuple((i + 1) % step != 0 for i in range(layers))
    if len(marks) != layers:
        raise ConfigError(
            f"no_rope_layers has {len(marks)} entries for {layers} layers", key="no_rope_layers", value=len(marks)
        )
    return tuple(bool(mark) for mark in marks)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/smollm3/modeling_smollm3.py",
)
