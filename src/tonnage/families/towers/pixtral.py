"""Pixtral's tower: Llama's layers over patches that are turned by row and column (arXiv:2410.07073)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.parts import Part
from tonnage.families._pieces import matrix
from tonnage.families._towers import attention, convolution, repeated, side, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``PixtralVisionModel``."""
    D, F, patch = k.need("hidden_size"), k.need("intermediate_size"), side(k, "patch_size")
    H = k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    k.skip("hidden_act", "attention_dropout", "image_size", "head_dim", "vocab_size")
    width, inner = ("D", D), ("F", F)
    layer: tuple[Part, ...] = (
        Norm("attention_norm", (width,)),
        matrix("feed_forward.gate_proj", width, inner, "vision", bias=False),
        matrix("feed_forward.up_proj", width, inner, "vision", bias=False),
        matrix("feed_forward.down_proj", inner, width, "vision", bias=False),
        *attention("attention", D, o="o_proj", bias=False),
        Norm("ffn_norm", (width,)),
    )
    first = tower(
        "vision",
        path,
        *convolution("patch_conv", k.need("num_channels"), D, patch, patch, bias=False),
        Norm("ln_pre", (width,)),
        Rotary("patch_positional_embedding", H),
    )
    return D, first + repeated("vision", f"{path}.transformer.layers", k.need("num_hidden_layers"), *layer)


TOWER: Final = Tower(
    read=read,
    defaults={
        "pixtral": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_channels": 3,
            "patch_size": 16,
        }
    },
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/pixtral/"
    "modeling_pixtral.py",
)
