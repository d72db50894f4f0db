"""BLIP's tower: queries, keys and values as one matrix (arXiv:2201.12086)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.parts import Part
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution, feed_forward, repeated, side, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``Blip2VisionModel`` and its like."""
    D, F, patch = k.need("hidden_size"), k.need("intermediate_size"), side(k, "patch_size")
    rows = (side(k, "image_size") // patch) ** 2 + 1
    k.skip("hidden_act", "attention_dropout", "projection_dim", "dropout", "num_channels")
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    width, one = ("D", D), (("B", 1), ("T", 1))
    layer: tuple[Part, ...] = (
        matrix("self_attn.qkv", width, ("X", 3 * D), "vision", bias=k.want("qkv_bias", True)),
        matrix("self_attn.projection", width, width, "vision"),
        layer_norm("layer_norm1", D),
        *feed_forward("mlp", D, F),
        layer_norm("layer_norm2", D),
    )
    first = tower(
        "vision",
        path,
        Tensor("embeddings.class_embedding", (*one, width), "vision"),
        Tensor("embeddings.position_embedding", (("B", 1), ("P", rows), width), "vision"),
        *convolution("embeddings.patch_embedding", 3, D, patch, patch),
        layer_norm("post_layernorm", D),
    )
    return D, first + repeated("vision", f"{path}.encoder.layers", k.need("num_hidden_layers"), *layer)


_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 1408,
    "intermediate_size": 6144,
    "num_hidden_layers": 39,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}

TOWER: Final = Tower(
    read=read,
    defaults={
        "blip_2_vision_model": _SIZES,
        "blip_vision_model": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 384,
            "patch_size": 16,
        },
        "instructblip_vision_model": _SIZES,
        "instructblipvideo_vision_model": _SIZES,
    },
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/blip_2/modeling_blip_2.py",
)
