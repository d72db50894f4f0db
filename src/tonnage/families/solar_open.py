"""Solar Open: Llama's attention, DeepSeek-V3's experts in every layer."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._decoder import causal, heads, rotary_width
from tonnage.families._experts import even, scored, stacked
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``SolarOpenForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 8)
    H = k.size("head_dim", 128)
    norm, act = (("D", D),), k.want("hidden_act", "silu")
    # The table follows the factor, but whole heads are turned: a part of one would not fit.
    turned = even(rotary_width(k, H))
    k.skip("intermediate_size", "first_k_dense_replace", "num_nextn_predict_layers")
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        bias=k.want("attention_bias", False),
        dropout=k.want("attention_dropout", 0.0),
    )
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=stacked(
            lambda _: attention,
            (None,) * L,
            scored(k, D, act, experts=128, used=8, width=1280),
            None,
            (True,) * L,
            lambda name: Norm(name, norm),
        ),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", turned),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 131072),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/solar_open/modeling_solar_open.py",
    attributes={"n_routed_experts": "num_local_experts"},
)
