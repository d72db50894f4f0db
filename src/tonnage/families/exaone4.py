"""EXAONE 4.0: norms behind attention and feed-forward and of heads; every fourth layer sees all and turns nothing."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.model import Layer, Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_after, normed_heads, turned_in_windows
from tonnage.families._decoder import every, window_of, windows
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Exaone4ForCausalLM`` builds. Without a window every layer sees all and turns."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = normed_heads(attention(k, D, K=32, bias=False, o_bias=False))
    mlp = gated(k, D)
    window = window_of(k, 4096)
    if window is None or k.config.get("layer_types") is not None:
        k.skip("sliding_window_pattern")
        pattern = 1
    else:
        pattern = every(k, "sliding_window_pattern", 4)
    seen = windows(k, L, window, lambda i: (i + 1) % pattern != 0)

    @cache
    def layer(seen: int | None) -> Layer:
        block = turned_in_windows(token, seen, everywhere=window is None)
        return normed_after(block, mlp, D, kind="full layer" if seen is None else "sliding layer")

    return decoder(k, D, tuple(map(layer, seen)), width=token.H, positions=2048)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/exaone4/"
    "modeling_exaone4.py",
)
