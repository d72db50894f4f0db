"""CLIP's tower (arXiv:2103.00020)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.families._pieces import layer_norm
from tonnage.families._towers import clip_layer, convolution, repeated, side, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``CLIPVisionModel`` without the projection of its output."""
    D, F, patch = k.need("hidden_size"), k.need("intermediate_size"), side(k, "patch_size")
    rows = (side(k, "image_size") // patch) ** 2 + 1
    k.skip("hidden_act", "attention_dropout", "dropout", "projection_dim", "vocab_size")
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    first = tower(
        "vision",
        path,
        Tensor("embeddings.class_embedding", (("D", D),), "vision"),
        *convolution("embeddings.patch_embedding", k.need("num_channels"), D, patch, patch, bias=False),
        Tensor("embeddings.position_embedding.weight", (("P", rows), ("D", D)), "vision"),
        Tensor("embeddings.position_ids", (("X", 1), ("P", rows)), "buffer", dtype="int64"),
        layer_norm("pre_layrnorm", D),
        layer_norm("post_layernorm", D),
    )
    return D, first + repeated("vision", f"{path}.encoder.layers", k.need("num_hidden_layers"), *clip_layer(D, F))


_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
}
_LARGE: Final[dict[str, Any]] = {
    **_SIZES,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}

TOWER: Final = Tower(
    read=read,
    defaults={
        "clip_vision_model": _SIZES,
        "idefics_vision": {
            **_SIZES,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "patch_size": 14,
        },
        "kosmos_2_vision_model": _LARGE,
        "unlimited_ocr_vision_encoder": _LARGE,
    },
    attributes={"hidden_size": "embed_dim"},
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/clip/modeling_clip.py",
)
