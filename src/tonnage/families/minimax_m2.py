"""MiniMax M2: norms over all heads of queries and of keys, part of a head turned, scored experts in every layer."""

from __future__ import annotations

from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, normed_before, normed_heads
from tonnage.families._decoder import chosen, rotary_width
from tonnage.families._experts import even
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``MiniMaxM2ForCausalLM`` builds. No release stores the modules that its config tells."""
    D, L, width = k.need("hidden_size"), k.need("num_hidden_layers"), k.optional("rotary_dim")
    token = attention(k, D, K=8, H=128, bias=False, o_bias=False)
    turned = even(rotary_width(k, token.H, 1.0 if width is None else width / token.H))
    token = normed_heads(token, whole=True, norm_inline=True, rotary_width=turned, rotary_style="rebound")
    k.skip("attn_type_list", "qk_norm_type", "use_qk_norm", "use_routing_bias", "scoring_func", "use_mtp")
    k.skip("num_mtp_modules", "mtp_transformer_layers", "layernorm_full_attention_beta", "layernorm_mlp_beta")
    k.skip("layernorm_linear_attention_beta")
    k.refuse("shared_intermediate_size", 0)
    E = k.size("num_local_experts", 256)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=k.need("intermediate_size"),
        act=k.want("hidden_act", "silu"),
        routing="sigmoid-narrow",
        corrected=Tensor("mlp.e_score_correction_bias", (("Er", E),), "buffer"),
    )
    layers = (normed_before(token, experts, D, kind="layer with experts"),) * L
    return decoder(k, D, layers, width=turned, positions=196608)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/minimax_m2/modeling_minimax_m2.py",
    attributes={"num_local_experts": "num_experts"},
)
