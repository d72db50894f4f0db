"""Ministral 3: Mistral's structure with queries multiplied by a number that grows with their position."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.families._decoder import window_of
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Ministral3ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    k.refuse("layer_types")
    token = attention(k, D, K=8, H=128, bias=False, o_bias=False, window=window_of(k), position_scaled=True)
    layer = normed_before(token, gated(k, D), D)
    return decoder(k, D, (layer,) * L, width=token.H, positions=262144)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/ministral3/"
    "modeling_ministral3.py",
)
