"""Hunyuan A13B: Hunyuan's attention, experts beside one that every token uses and that is as wide as they are."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.model import Layer, Model
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import decoder, gated, normed_before
from tonnage.families._experts import shared_expert
from tonnage.families._hunyuan import hunyuan_attention
from tonnage.families._hybrid import whole_numbers
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``HunYuanMoEV1ForCausalLM`` builds. The router's matrix stays in fp32 wherever it is loaded.

    The class reads neither the width of the experts nor how many are shared: both are those of the feed-forward.
    """
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token, one = hunyuan_attention(k, D), gated(k, D)
    k.refuse("use_mla")
    k.skip("moe_intermediate_size", "num_shared_expert", "use_mixed_mlp_moe", "moe_drop_tokens", "kv_lora_rank")
    k.skip("moe_layer_num_skipped", "moe_random_routing_dropped_token", "group_limited_greedy", "n_group", "topk_group")
    k.skip("norm_topk_prob", "routed_scaling_factor", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim")
    k.skip("v_head_dim")
    E = k.need("num_experts")

    @cache
    def layer(used: int) -> Layer:
        experts = Experts(
            name="mlp",
            D=D,
            E=E,
            used=used,
            F=one.F,
            act=one.act,
            routing="own",
            router="gate.wg",
            shared=shared_expert(D, one.F, one.act, name="mlp.shared_mlp"),
        )
        return normed_before(token, experts, D)

    layers = tuple(map(layer, _chosen(k, L, E)))
    return decoder(k, D, layers, width=token.H, positions=2048).but(fp32=("mlp.gate.wg.",))


def _chosen(k: Keys, layers: int, experts: int) -> list[int]:
    """Experts that a token uses: one number for all layers, or one for each."""
    listed = isinstance(k.config.get("moe_topk"), list)
    chosen = (whole_numbers(k, "moe_topk") or []) if listed else [k.want("moe_topk", 1)] * layers
    if len(chosen) != layers:
        raise ConfigError(f"moe_topk has {len(chosen)} entries for {layers} layers", key="moe_topk", value=chosen)
    for used in chosen:
        if not 0 < used <= experts:
            raise ConfigError(f"moe_topk = {used} of {experts} experts", key="moe_topk", value=used)
    return chosen


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/hunyuan_v1_moe/"
    "modeling_hunyuan_v1_moe.py",
    attributes={"moe_topk": "num_experts_per_tok", "num_experts": "num_local_experts"},
)
