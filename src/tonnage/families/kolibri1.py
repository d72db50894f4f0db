"""Kolibri 1: normed queries and keys, positions in sliding layers only, four norms a layer, many small experts."""

from __future__ import annotations

from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, normed_heads, turned_in_windows
from tonnage.families._decoder import chosen, window_of, windows
from tonnage.families._experts import shared_expert, stacked
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Kolibri1ForCausalLM`` builds."""
    D, L, act = k.need("hidden_size"), k.need("num_hidden_layers"), k.want("hidden_act", "silu")
    token, window = normed_heads(attention(k, D, K=4, H=128, bias=False, o_bias=False)), window_of(k, 513)
    k.skip("routed_scaling_factor")
    E = k.size("num_experts", 384)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 6),
        F=k.size("moe_intermediate_size", 512),
        act=act,
        routing="own",
        normalised=k.want("norm_topk_prob", False),
        correction=True,
        shared=shared_expert(D, k.size("shared_expert_intermediate_size", 512), act),
    )
    layers = stacked(
        lambda seen: turned_in_windows(token, seen, everywhere=window is None),
        windows(k, L, window, lambda i: (i + 1) % 5 != 0),
        experts,
        None,
        (True,) * L,
        lambda name: Norm(name, (("D", D),)),
        names=("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),
    )
    masks = (None, window) if window is not None else ()
    return decoder(k, D, layers, width=token.H, positions=262144, masks=masks)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/kolibri1/modeling_kolibri1.py",
    attributes={"num_experts": "num_local_experts"},
)
