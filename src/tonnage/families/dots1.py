"""dots.llm1: Qwen3's attention and DeepSeek-V3's experts (arXiv:2506.05767)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_heads
from tonnage.families._decoder import window_of, windows
from tonnage.families._experts import scored, stacked
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Dots1ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = normed_heads(attention(k, D, K=32, norm_inline=True))
    first = k.want("max_window_layers", 62)
    seen = windows(k, L, window_of(k, 4096), lambda i: i >= first)
    dense = gated(k, D)
    # The class falls over a config that leaves either number open.
    E, shared = k.need("n_routed_experts"), k.need("n_shared_experts")
    experts = scored(k, D, dense.act, experts=E, used=None, width=1408, shared=shared, normalised=False)
    k.skip("scoring_func")
    first_sparse = k.want("first_k_dense_replace", 0)

    def seeing(window: int | None) -> GroupedQuery:
        return token.but(window=window)

    layers = stacked(
        seeing, seen, experts, dense, tuple(i >= first_sparse for i in range(L)), lambda name: Norm(name, (("D", D),))
    )
    return decoder(k, D, layers, width=token.H, positions=2048)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/dots1/modeling_dots1.py",
    attributes={"n_routed_experts": "num_local_experts"},
)
