"""DeepSeek-V3 and R1: latent attention, experts chosen by corrected sigmoid scores, multi-token prediction apart."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, latent
from tonnage.families._experts import ahead
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``DeepseekV3ForCausalLM`` builds, and what its checkpoint stores beside that."""
    D, L, V = k.need("hidden_size"), k.need("num_hidden_layers"), k.need("vocab_size")
    attention = latent(k, D, style="neighbours" if k.want("rope_interleave", True) else "plain")
    act, F = k.want("hidden_act", "silu"), k.want("moe_intermediate_size", 2048)
    k.refuse("moe_layer_freq", 1)
    k.refuse("scoring_func", "sigmoid")
    k.refuse("topk_method", "noaux_tc")
    k.skip("n_group", "topk_group", "routed_scaling_factor")
    dense = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act)
    E = k.want("n_routed_experts", 256)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=F,
        act=act,
        routing="sigmoid",
        normalised=k.want("norm_topk_prob", True),
        correction=True,
        shared=Gated(
            name="mlp.shared_experts",
            D=D,
            F=F * k.want("n_shared_experts", 1),
            act=act,
            role="shared_expert",
        ),
    )
    norm, first = (("D", D),), k.want("first_k_dense_replace", 3)

    @cache
    def layer(routed: bool) -> Layer:
        return Layer(
            sublayers=(
                Sublayer(block=attention, before=Norm("input_layernorm", norm)),
                Sublayer(block=experts if routed else dense, before=Norm("post_attention_layernorm", norm)),
            ),
            kind="layer with experts" if routed else "dense layer",
        )

    further = k.optional("num_nextn_predict_layers") or 0
    return causal(
        k,
        V=V,
        D=D,
        layers=tuple(layer(i >= first) for i in range(L)),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", attention.rope),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 4096),
        apart=tuple(t for i in range(L, L + further) for t in ahead(layer(True), i, D, V)),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deepseek_v3/modeling_deepseek_v3.py",
    attributes={"n_routed_experts": "num_local_experts", "num_nextn_predict_layers": "num_mtp_layers"},
)
