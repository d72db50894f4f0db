"""Qwen3 mixture of experts: Qwen3 with small experts and none that every token uses."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.model import Layer, Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before, normed_heads
from tonnage.families._decoder import chosen, sparse, used_window
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Qwen3MoeForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    k.refuse("layer_types")
    # Qwen3-Coder's configs tell these as well; transformers reads none of them.
    k.refuse("qkv_bias")
    k.refuse("shared_expert_intermediate_size", 0)
    k.skip("max_window_layers", "use_qk_norm")
    token, dense = normed_heads(attention(k, D, K=4, norm_inline=True, window=used_window(k))), gated(k, D)
    E = k.need("num_experts")
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=k.want("moe_intermediate_size", 768),
        act=dense.act,
        normalised=k.want("norm_topk_prob", False),
    )

    @cache
    def layer(routed: bool) -> Layer:
        kind = "layer with experts" if routed else "dense layer"
        return normed_before(token, experts if routed else dense, D, kind=kind)

    return decoder(k, D, tuple(map(layer, sparse(k, L))), width=token.H, positions=32768)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3_moe/modeling_qwen3_moe.py",
    attributes={"num_experts": "num_local_experts"},
)
