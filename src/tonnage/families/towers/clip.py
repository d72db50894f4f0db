"""CLIP's tower (arXiv:2103.00020)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.sight.towers import Patches, Places, Upright
from tonnage.families._pieces import layer_norm
from tonnage.families._siglip import encoder_layer
from tonnage.families._towers import side
from tonnage.families.towers import Sight, Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> Sight:
    """``CLIPVisionModel`` without the projection of its output."""
    D, F, patch, image = (
        k.need("hidden_size"),
        k.need("intermediate_size"),
        side(k, "patch_size"),
        side(k, "image_size"),
    )
    rows = (image // patch) ** 2 + 1
    k.skip("dropout", "projection_dim", "vocab_size", "layer_norm_eps")
    made = Upright(
        patches=Patches(f"{path}.embeddings.patch_embedding", k.need("num_channels"), D, patch, bias=False),
        places=Places(f"{path}.embeddings.position_embedding", rows, D),
        path=f"{path}.encoder.layers",
        layer=encoder_layer(k, D, F, "quick_gelu"),
        count=k.need("num_hidden_layers"),
        behind=layer_norm(f"{path}.post_layernorm", D),
        image=image,
        first=f"{path}.embeddings.class_embedding",
        before=layer_norm(f"{path}.pre_layrnorm", D),
    )
    indices = Tensor(f"{path}.embeddings.position_ids", (("X", 1), ("P", rows)), "buffer", dtype="int64")
    return Sight(D, tuple(made.weights(indices)), made)


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
