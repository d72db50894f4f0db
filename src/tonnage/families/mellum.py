"""Mellum 2: Qwen3's attention and experts, a window and positions of its own for each kind of layer."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_heads
from tonnage.families._decoder import chosen, window_of, windows
from tonnage.families._experts import routed, stacked, tables, turned
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``MellumForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token, dense = normed_heads(attention(k, D, K=4, H=128)), gated(k, D)
    k.skip("num_nextn_predict_layers", "mtp_layer_types", "mtp_mlp_layer_types")
    k.skip("use_sliding_window", "max_window_layers", "decoder_sparse_step", "mlp_only_layers")
    seen = windows(k, L, window_of(k, 1024), lambda _: False)
    widths = turned(k, token.H, list(map(_kind, seen)), {"full_attention": 1.0, "sliding_attention": 1.0})

    def seeing(window: int | None) -> GroupedQuery:
        return token.but(window=window, rotary=_kind(window))

    E = k.size("num_experts", 64)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=k.size("moe_intermediate_size", 896),
        act=dense.act,
        normalised=k.want("norm_topk_prob", True),
    )
    layers = stacked(seeing, seen, experts, dense, routed(k, L, 0), lambda name: Norm(name, (("D", D),)))
    return decoder(k, D, layers, width=token.H, positions=131072, rotary=tables("model", widths))


def _kind(window: int | None) -> str:
    return "full_attention" if window is None else "sliding_attention"


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mellum/modeling_mellum.py",
    attributes={"num_experts": "num_local_experts", "num_nextn_predict_layers": "num_mtp_layers"},
)
