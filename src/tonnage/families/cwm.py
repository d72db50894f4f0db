"""Code World Model: Llama's structure with a window on three of four layers."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.model import Layer, Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.families._decoder import window_of, windows
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``CwmForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = attention(k, D, K=8, H=128, bias=False, o_bias=False)
    k.skip("attention_bias")
    mlp = gated(k, D, bias=k.want("mlp_bias", False))
    window = window_of(k, 8192)
    seen = windows(k, L, window, lambda i: i % 4 != 0)

    @cache
    def layer(window: int | None) -> Layer:
        kind = "full layer" if window is None else "sliding layer"
        return normed_before(token.but(window=window), mlp, D, kind=kind)

    return decoder(
        k,
        D,
        tuple(map(layer, seen)),
        width=token.H,
        positions=131072,
        masks=() if window is None else (None, window),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/cwm/modeling_cwm.py",
)
