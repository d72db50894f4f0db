"""Youtu-LLM: latent attention in Llama's layers."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import decoder, gated, normed_before
from tonnage.families._decoder import latent
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``YoutuForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    k.skip("embedding_initializer_range")
    token = latent(k, D, style="neighbours" if k.want("rope_interleave", True) else "plain")
    layer = normed_before(token, gated(k, D), D)
    return decoder(k, D, (layer,) * L, width=token.rope, positions=131072, tied=True)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/youtu/modeling_youtu.py",
)
