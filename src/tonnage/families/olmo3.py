"""OLMo 3: OLMo 2's structure with a window on three of four layers and rotary tables for either kind."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.layers import Rotary
from tonnage.arch.model import Layer, Model
from tonnage.families import Family
from tonnage.families._blocks import decoder, gated, normed_after
from tonnage.families._decoder import window_of, windows
from tonnage.families._olmo import STYLE, olmo_attention
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Olmo3ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = olmo_attention(k, D)
    mlp = gated(k, D)
    window = window_of(k, 4096)
    seen = windows(k, L, window, lambda i: (i + 1) % 4 != 0)

    @cache
    def layer(window: int | None) -> Layer:
        block = token.but(window=window, rotary=_kind(window))
        return normed_after(block, mlp, D, style=STYLE, kind=_kind(window).replace("_attention", " layer"))

    return decoder(
        k,
        D,
        tuple(map(layer, seen)),
        width=token.H,
        positions=2048,
        style=STYLE,
        rotary=tuple(
            Rotary(
                "model.rotary_emb",
                token.H,
                kind,
                buffers=(f"{kind}_inv_freq", f"{kind}_original_inv_freq"),
                dtype="fp32",
            )
            for kind in sorted(set(map(_kind, seen)))
        ),
        masks=() if window is None else (None, window),
    )


def _kind(window: int | None) -> str:
    return "full_attention" if window is None else "sliding_attention"


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/olmo3/modeling_olmo3.py",
)
