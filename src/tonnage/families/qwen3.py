"""Qwen3: Qwen2 without its biases and with a norm of every query and key head."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.model import Layer, Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before, normed_heads
from tonnage.families._decoder import used_window, windows
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Qwen3ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token, mlp = normed_heads(attention(k, D, K=32, H=128, norm_inline=True)), gated(k, D)
    lowest = k.want("max_window_layers", 28)
    seen = windows(k, L, used_window(k), lambda i: i >= lowest)

    @cache
    def layer(window: int | None) -> Layer:
        kind = "layer" if window is None else "sliding layer"
        return normed_before(token.but(window=window), mlp, D, kind=kind)

    return decoder(k, D, tuple(map(layer, seen)), width=token.H, positions=32768)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3/modeling_qwen3.py",
)
