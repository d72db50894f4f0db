"""OLMoE: OLMo 2's norms of queries and keys, pre-norm layers, small experts."""

from __future__ import annotations

from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, normed_before, normed_heads
from tonnage.families._decoder import chosen
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``OlmoeForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = attention(k, D, clip=k.optional("clip_qkv", float) is not None)
    token = normed_heads(token, whole=True, norm_inline=True)
    E = k.need("num_experts")
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=k.need("intermediate_size"),
        act=k.want("hidden_act", "silu"),
        normalised=k.want("norm_topk_prob", False),
    )
    return decoder(k, D, (normed_before(token, experts, D),) * L, width=token.H, positions=4096)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/olmoe/modeling_olmoe.py",
    attributes={"num_experts": "num_local_experts"},
)
