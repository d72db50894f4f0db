"""DeepSeek-V2: latent attention, small experts chosen in groups, shared experts beside them."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, latent
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``DeepseekV2ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    attention = latent(k, D, style="complex")
    act, bias, F = k.want("hidden_act", "silu"), k.want("mlp_bias", False), k.want("moe_intermediate_size", 1407)
    method = k.want("topk_method", "greedy")
    k.refuse("topk_method", "greedy", "group_limited_greedy")
    k.refuse("moe_layer_freq", 1)
    k.refuse("scoring_func", "softmax")
    k.skip("norm_topk_prob", "n_group", "topk_group", "routed_scaling_factor", "use_mla")
    dense = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act, bias=bias)
    E = k.want("n_routed_experts", 64)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, None),
        F=F,
        act=act,
        routing="softmax-grouped",
        normalised=False,
        limited=method == "group_limited_greedy",
        shared=Gated(
            name="mlp.shared_experts",
            D=D,
            F=F * k.want("n_shared_experts", 2),
            act=act,
            bias=bias,
            role="shared_expert",
        ),
    )
    norm, first = (("D", D),), k.want("first_k_dense_replace", 0)

    @cache
    def layer(routed: bool) -> Layer:
        return Layer(
            sublayers=(
                Sublayer(block=attention, before=Norm("input_layernorm", norm)),
                Sublayer(block=experts if routed else dense, before=Norm("post_attention_layernorm", norm)),
            ),
            kind="layer with experts" if routed else "dense layer",
        )

    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=tuple(layer(i >= first) for i in range(L)),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", attention.rope, complex=True),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 2048),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deepseek_v2/modeling_deepseek_v2.py",
    attributes={"n_routed_experts": "num_experts"},
)
