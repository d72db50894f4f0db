"""Qwen3-Next: gated delta nets, gated attention in every fourth layer, many small experts."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.model import Layer, Model
from tonnage.families import Family
from tonnage.families._blocks import decoder, normed_before
from tonnage.families._decoder import chosen, rotary_width, sparse
from tonnage.families._hybrid import FULL, every_fourth, gated_attention, gated_delta, layer_kinds
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Qwen3NextForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    act = k.want("hidden_act", "silu")
    attention = gated_attention(k, D, K=2, H=256, turned=0.25)
    delta = gated_delta(k, D, "packed")
    E = k.size("num_experts", 512)
    dense = Gated(name="mlp", D=D, F=k.size("intermediate_size", 5632), act=act)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 10),
        F=k.size("moe_intermediate_size", 512),
        act=act,
        normalised=k.want("norm_topk_prob", True),
        shared=Gated(
            name="mlp.shared_expert",
            D=D,
            F=k.size("shared_expert_intermediate_size", 512),
            act=act,
            role="shared_expert",
        ),
        shared_gate="shared_expert_gate",
    )

    @cache
    def layer(kind: str, routed: bool) -> Layer:
        token = attention if kind == FULL else delta
        name = "attention" if kind == FULL else "delta net"
        return normed_before(
            token,
            experts if routed else dense,
            D,
            style="rms-gemma",
            kind=f"{name} with experts" if routed else f"dense {name}",
        )

    kinds = layer_kinds(k, L, every_fourth(k))
    k.skip("full_attention_interval")
    return decoder(
        k,
        D,
        tuple(map(layer, kinds, sparse(k, L))),
        width=rotary_width(k, k.size("head_dim", 256), 0.25),
        positions=32768,
        style="rms-gemma",
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3_next/modeling_qwen3_next.py",
    attributes={"num_experts": "num_local_experts"},
)
