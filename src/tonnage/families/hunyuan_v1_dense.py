"""Hunyuan 0.5B to 7B: Llama's structure with norms of queries and keys behind the rotation."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import decoder, gated, normed_before
from tonnage.families._hunyuan import hunyuan_attention
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``HunYuanDenseV1ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = hunyuan_attention(k, D)
    return decoder(k, D, (normed_before(token, gated(k, D), D),) * L, width=token.H, positions=2048)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/hunyuan_v1_dense/"
    "modeling_hunyuan_v1_dense.py",
)
