"""Ministral 8B: Mistral's structure with a window that a list of layer types may leave out."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.model import Layer, Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.families._decoder import window_of, windows
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``MinistralForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token, mlp = attention(k, D, K=8, bias=False, o_bias=False), gated(k, D)
    window = window_of(k, 4096)
    seen = windows(k, L, window, lambda _: True)

    @cache
    def layer(window: int | None) -> Layer:
        kind = "layer" if len(set(seen)) == 1 else "full layer" if window is None else "sliding layer"
        return normed_before(token.but(window=window), mlp, D, kind=kind)

    masks = () if window is None else (None, window)
    return decoder(k, D, tuple(map(layer, seen)), width=token.H, positions=131072, masks=masks)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/ministral/"
    "modeling_ministral.py",
)
