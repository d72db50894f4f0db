"""GLM-5: DeepSeek-V3.2's structure, where several layers may share what one indexer chose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tonnage.arch.model import Model
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._decoder import latent
from tonnage.families._experts import scored
from tonnage.families._indexed import owners, sparse_latent
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``GlmMoeDsaForCausalLM`` builds, and what its checkpoint stores beside that."""
    D, L, act = k.need("hidden_size"), k.need("num_hidden_layers"), k.want("hidden_act", "silu")
    attention = latent(k, D, style="neighbours", q_rank=2048, nope=192, VH=256)
    k.refuse("moe_layer_freq", 1)
    k.refuse("scoring_func", "sigmoid")
    k.refuse("topk_method", "noaux_tc")
    k.skip("rope_interleave", "indexer_rope_interleave", "index_share_for_mtp_iteration", "moe_router_dtype")
    key = "n_routed_experts" if k.config.get("num_experts") is None else "num_experts"
    k.skip("n_routed_experts", "num_experts")
    experts = scored(k, D, act, experts=256, used=8, width=2048, key=key)
    own = owners(k, L, _pattern(k, L))
    return sparse_latent(
        k, D, attention, 32, own, experts, dense=3, positions=202752, style="neighbours", hands=True, tables=False
    )


def _pattern(k: Keys, layers: int) -> Callable[[int], bool]:
    """Which layers have an indexer where ``indexer_types`` does not tell: a pattern, or every so many."""
    every, offset = max(k.want("index_topk_freq", 1), 1), k.want("index_skip_topk_offset", 2)
    pattern = k.config.get("index_topk_pattern")
    k.skip("index_topk_pattern")
    if pattern is None:
        return lambda i: max(i - offset + 1, 0) % every == 0
    if len(pattern) != layers or set(pattern) - {"F", "S", "full", "shared"}:
        key = f"{k.path}index_topk_pattern"
        raise ConfigError(f"{key} must say F or S for each of {layers} layers", key=key, value=pattern, file=k.file)
    return lambda i: bool(pattern[i] in ("F", "full"))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/glm_moe_dsa/modeling_glm_moe_dsa.py",
    attributes={"n_routed_experts": "num_local_experts"},
)
