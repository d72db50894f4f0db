"""GLM-4.7 Flash: latent attention and DeepSeek-V3's experts."""

from __future__ import annotations

from typing import Final

from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._decoder import causal, latent, rotary_width
from tonnage.families._experts import ahead, even, routed, scored, stacked
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Glm4MoeLiteForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    style = "neighbours" if k.want("rope_interleave", True) else "plain"
    attention = latent(k, D, style=style, q_rank=768, nope=192, VH=256)
    norm, act = (("D", D),), k.want("hidden_act", "silu")
    k.skip("first_k_dense_replace")
    V, further = k.need("vocab_size"), k.optional("num_nextn_predict_layers") or 0
    layers = stacked(
        lambda _: attention,
        (None,) * L,
        scored(k, D, act, experts=64, used=4, width=1536),
        Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act),
        routed(k, L, 1),
        lambda name: Norm(name, norm),
    )
    return causal(
        k,
        V=V,
        D=D,
        layers=layers,
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", even(rotary_width(k, attention.rope))),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 202752),
        apart=tuple(t for i in range(L, L + further) for t in ahead(layers[-1], i, D, V)),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/glm4_moe_lite/modeling_glm4_moe_lite.py",
    attributes={"n_routed_experts": "num_local_experts"},
)
