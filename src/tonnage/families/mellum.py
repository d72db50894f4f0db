"""Mellum 2: Qwen3's attention and experts, a window and positions of its own for each kind of layer."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, heads, window_of, windows
from tonnage.families._experts import routed, stacked, tables, turned
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``MellumForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 4)
    H = k.size("head_dim", 128)
    norm, head, act, bias = (("D", D),), (("H", H),), k.want("hidden_act", "silu"), k.want("attention_bias", False)
    dropout = k.want("attention_dropout", 0.0)
    k.skip("num_nextn_predict_layers", "mtp_layer_types", "mtp_mlp_layer_types")
    k.skip("use_sliding_window", "max_window_layers", "decoder_sparse_step", "mlp_only_layers")
    seen = windows(k, L, window_of(k, 1024), lambda _: False)
    kinds = ["full_attention" if window is None else "sliding_attention" for window in seen]
    widths = turned(k, H, kinds, {"full_attention": 1.0, "sliding_attention": 1.0})

    def attention(window: int | None) -> GroupedQuery:
        kind = "full_attention" if window is None else "sliding_attention"
        return GroupedQuery(
            name="self_attn",
            D=D,
            N=N,
            K=K,
            H=H,
            bias=bias,
            o_bias=bias,
            q_norm=Norm("self_attn.q_norm", head),
            k_norm=Norm("self_attn.k_norm", head),
            rotary=kind,
            window=window,
            dropout=dropout,
        )

    E = k.size("num_experts", 64)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=k.size("moe_intermediate_size", 896),
        act=act,
        normalised=k.want("norm_topk_prob", True),
    )
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=stacked(
            attention,
            seen,
            experts,
            Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act),
            routed(k, L, 0),
            lambda name: Norm(name, norm),
        ),
        norm=Norm("model.norm", norm),
        rotary=tables("model", widths),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 131072),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mellum/modeling_mellum.py",
    attributes={"num_experts": "num_local_experts", "num_nextn_predict_layers": "num_mtp_layers"},
)
