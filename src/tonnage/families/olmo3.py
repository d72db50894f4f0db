"""OLMo 3: OLMo 2's structure with a window on three of four layers and rotary tables for either kind."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_after
from tonnage.families._decoder import window_of, windows
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Olmo3ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = attention(k, D, rotary_style="back")
    token = token.but(
        q_norm=Norm("self_attn.q_norm", (("N", token.N), ("H", token.H)), "rms-fp32-weight"),
        k_norm=Norm("self_attn.k_norm", (("K", token.K), ("H", token.H)), "rms-fp32-weight"),
        norm_inline=True,
    )
    mlp = gated(k, D)
    window = window_of(k, 4096)
    seen = windows(k, L, window, lambda i: (i + 1) % 4 != 0)

    @cache
    def layer(window: int | None) -> Layer:
        block = token.but(window=window, rotary=_kind(window))
        return normed_after(block, mlp, D, style="rms-fp32-weight", kind=_kind(window).replace("_attention", " layer"))

    return decoder(
        k,
        D,
        tuple(map(layer, seen)),
        width=token.H,
        positions=2048,
        style="rms-fp32-weight",
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
