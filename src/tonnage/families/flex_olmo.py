"""FlexOlmo: OLMo 2's attention and norms behind the blocks, OLMoE's experts."""

from __future__ import annotations

from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._decoder import chosen
from tonnage.families._olmo import olmo
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``FlexOlmoForCausalLM`` builds."""
    E = k.size("num_experts", 7)
    experts = Experts(
        name="mlp",
        D=k.need("hidden_size"),
        E=E,
        used=chosen(k, E, 5),
        F=k.need("intermediate_size"),
        act=k.want("hidden_act", "silu"),
        normalised=k.want("norm_topk_prob", False),
    )
    return olmo(k, experts, positions=4096)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/flex_olmo/modeling_flex_olmo.py",
    attributes={"num_local_experts": "num_experts"},
)
