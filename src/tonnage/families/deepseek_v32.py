"""DeepSeek-V3.2: DeepSeek-V3 with an indexer that chooses the tokens that attention sees."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._decoder import latent
from tonnage.families._experts import scored
from tonnage.families._indexed import sparse_latent
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``DeepseekV32ForCausalLM`` builds, and what its checkpoint stores beside that."""
    D, L, act = k.need("hidden_size"), k.need("num_hidden_layers"), k.want("hidden_act", "silu")
    attention = latent(k, D, style="neighbours")
    k.refuse("moe_layer_freq", 1)
    k.refuse("scoring_func", "sigmoid")
    k.refuse("topk_method", "noaux_tc")
    key = "n_routed_experts" if k.config.get("num_experts") is None else "num_experts"
    k.skip("n_routed_experts", "num_experts")
    experts = scored(k, D, act, experts=256, used=8, width=2048, key=key)
    return sparse_latent(k, D, attention, 64, (True,) * L, experts, dense=3, positions=163840)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deepseek_v32/modeling_deepseek_v32.py",
    attributes={"n_routed_experts": "num_local_experts"},
)
