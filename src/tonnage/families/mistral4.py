"""Mistral 4: DeepSeek-V3's layers, queries scaled with their position, experts chosen by a softmax."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.model import Layer, Model
from tonnage.arch.untraced import Untraced
from tonnage.families import Family
from tonnage.families._blocks import decoder, gated, normed_before
from tonnage.families._decoder import chosen, latent
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Mistral4ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    style = "neighbours" if k.want("rope_interleave", True) else "plain"
    token = latent(k, D, style=style, q_rank=1024, kv_rank=256, nope=64)
    act, F, E = k.want("hidden_act", "silu"), k.size("moe_intermediate_size", 2048), k.size("n_routed_experts", 128)
    k.skip("n_group", "topk_group", "routed_scaling_factor")
    shared = F * k.want("n_shared_experts", 1)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 4),
        F=F,
        act=act,
        normalised=k.want("norm_topk_prob", True),
        shared=Gated(name="mlp.shared_experts", D=D, F=shared, act=act, role="shared_expert"),
    )
    dense, first = gated(k, D), k.optional("first_k_dense_replace", int, 0) or 0

    @cache
    def layer(routed: bool) -> Layer:
        return normed_before(
            Untraced(block=token, what="Mistral 4's attention"),
            Untraced(block=experts, what="Mistral 4's experts") if routed else dense,
            D,
            kind="layer with experts" if routed else "dense layer",
        )

    return decoder(k, D, tuple(layer(i >= first) for i in range(L)), width=token.rope, positions=1048576)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mistral4/"
    "modeling_mistral4.py",
    attributes={"n_routed_experts": "num_local_experts"},
)
