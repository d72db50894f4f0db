"""UltraBERT: Llama that sees all tokens, most layers within a window, and a head of three matrices."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.layers import Rotary
from tonnage.arch.model import Layer, Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.families._decoder import Windows, window_of, windows
from tonnage.families._encoder import three_matrices
from tonnage.keys import Keys

FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"


def read(k: Keys) -> Model:
    """Build the model that ``UltrabertForMaskedLM`` builds."""
    D, seen = k.need("hidden_size"), _windows(k)
    k.skip("classifier_pooling")
    mlp, whole = gated(k, D, bias=k.want("mlp_bias", False)), attention(k, D, causal=False, rotary=FULL)

    @cache
    def layer(tokens: int | None) -> Layer:
        token = whole if tokens is None else whole.but(window=tokens, rotary=SLIDING)
        kind = "full layer" if tokens is None else "sliding layer"
        return normed_before(token, mlp, D, kind=kind)

    path = "model.rotary_emb"
    model = decoder(
        k,
        D,
        tuple(map(layer, seen)),
        width=whole.H,
        positions=32768,
        rotary=tuple(
            Rotary(path, whole.H, kind, buffers=(f"{kind}_inv_freq", f"{kind}_original_inv_freq"))
            for kind in sorted({FULL if tokens is None else SLIDING for tokens in seen})
        ),
    )
    assert model.head is not None
    return model.but(
        causal=False,
        head=three_matrices(
            model.head.but(name="head.decoder", raised=True), "head", k.size("prediction_head_size", 768)
        ),
        classifier=Head(name="classifier", D=D, V=1, bias=True),
    )


def _windows(k: Keys) -> Windows:
    """Window of every layer. Older configs list them, with nothing for a full layer."""
    L, stated = k.need("num_hidden_layers"), k.optional("attention_windows", list)
    window = window_of(k, 128)
    if stated is not None and "layer_types" not in k.config and len(stated) == L:
        first = next((tokens for tokens in stated if tokens), window)
        return tuple(first if tokens else None for tokens in stated)
    return windows(k, L, window, lambda i: (i + 1) % 3 != 0)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/ultrabert/"
    "modeling_ultrabert.py",
)
