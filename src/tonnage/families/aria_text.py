"""Aria's text model: experts stored input first, chosen and then weighed, and shared ones."""

from __future__ import annotations

from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.model import Model
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, normed_before
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``AriaTextForCausalLM`` builds. Routed experts are always gated by silu."""
    D, L, F = k.need("hidden_size"), k.need("num_hidden_layers"), k.need("intermediate_size")
    token = attention(k, D)
    E, used = k.size("moe_num_experts", 8), k.size("moe_topk", 2)
    if used > E:
        raise ConfigError(f"moe_topk = {used} of {E} experts", key="moe_topk", value=used)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=used,
        F=F,
        routing="softmax-top-plain",
        router="router",
        transposed=True,
        shared=Gated(
            name="mlp.shared_experts",
            D=D,
            F=F * k.size("moe_num_shared_experts", 2),
            act=k.want("hidden_act", "silu"),
            bias=k.want("mlp_bias", False),
            role="shared_expert",
        ),
    )
    return decoder(k, D, (normed_before(token, experts, D),) * L, width=token.H, positions=2048)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/aria/modeling_aria.py",
)
