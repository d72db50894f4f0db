"""Cohere 2 with experts: parallel attention and experts behind one norm, shared experts, dense layers first."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, NormStyle, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, every, heads, window_of, windows
from tonnage.families._experts import routed, shared_expert
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Cohere2MoeForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k)
    H = k.size("head_dim", 128)
    bias, dropout, act = k.want("attention_bias", False), k.want("attention_dropout", 0.0), k.want("hidden_act", "silu")
    # Either kind of norm has one scale a width.
    style: NormStyle = "rms" if k.config.get("rms_norm_eps") is not None else "layer-cohere"
    k.skip("logit_scale", "norm_topk_prob")
    window, first = window_of(k, 4096), k.want("first_k_dense_replace", 0)
    prefix, period = every(k, "prefix_dense_sliding_window_pattern", 1), every(k, "sliding_window_pattern", 4)
    seen = windows(k, L, window, lambda i: (i + 1) % prefix != 0 if i < first else (i - first + 1) % period != 0)
    F, E = k.need("intermediate_size"), k.size("num_experts", 8)
    shared = k.want("num_shared_experts", 0)
    selection = k.want("expert_selection_fn", "softmax")
    k.refuse("expert_selection_fn", "softmax", "sigmoid")
    k.refuse("shared_expert_combination_strategy", "average", "sum")
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 2),
        F=F,
        act=act,
        routing="softmax-top-wide" if selection == "softmax" and not shared else "own",
        shared=shared_expert(D, F * shared, act) if shared > 0 else None,
    )
    dense = Gated(name="mlp", D=D, F=k.optional("prefix_dense_intermediate_size") or F, act=act)
    norm = (("D", D),)

    @cache
    def layer(window: int | None, routes: bool) -> Layer:
        attention = GroupedQuery(
            name="self_attn",
            D=D,
            N=N,
            K=K,
            H=H,
            bias=bias,
            o_bias=bias,
            rotary=None if window is None and (routes or prefix != 1) else "default",
            rotary_style="wide",
            window=window,
            dropout=dropout,
        )
        return Layer(
            sublayers=(Sublayer(block=attention), Sublayer(block=experts if routes else dense)),
            norm=Norm("input_layernorm", norm, style),
            parallel=True,
            residual_first=True,
            kind=f"{'full' if window is None else 'sliding'} {'layer with experts' if routes else 'dense layer'}",
        )

    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=tuple(map(layer, seen, routed(k, L, first))),
        norm=Norm("model.norm", norm, style),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", True),
        positions=k.want("max_position_embeddings", 8192),
        head_scaled=True,
        masks=(None, window) if window is not None else (),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/cohere2_moe/modeling_cohere2_moe.py",
)
