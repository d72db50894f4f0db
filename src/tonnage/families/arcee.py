"""Arcee: Llama's structure with a plain feed-forward block."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, normed_before, plain
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``ArceeForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = attention(k, D)
    layer = normed_before(token, plain(k, D, "relu2", bias=k.want("mlp_bias", False)), D)
    return decoder(k, D, (layer,) * L, width=token.H, positions=4096)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/arcee/modeling_arcee.py",
)
