"""A.X K1: DeepSeek-V3's structure with a norm behind the experts."""

from __future__ import annotations

from typing import Final

from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._decoder import causal, latent
from tonnage.families._experts import routed, scored, stacked
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``AXK1ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    attention = latent(k, D, style="neighbours" if k.optional("rope_interleave", bool, True) else "plain")
    norm, act = (("D", D),), k.want("hidden_act", "silu")
    k.refuse("scoring_func", "sigmoid")
    k.refuse("topk_method", "noaux_tc")
    k.refuse("moe_layer_freq", 1)
    k.skip("num_nextn_predict_layers")
    routes = routed(k, L, k.want("first_k_dense_replace", 1))
    dense = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act)
    experts = scored(k, D, act, experts=192, used=8, width=2048).but(after=Norm("mlp.post_mlp_layernorm", norm))

    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=stacked(lambda _: attention, (None,) * L, experts, dense, routes, lambda name: Norm(name, norm)),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", attention.rope),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 32768),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/axk1/modeling_axk1.py",
    attributes={"n_routed_experts": "num_local_experts"},
)
