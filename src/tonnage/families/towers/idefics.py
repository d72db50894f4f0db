"""SigLIP's tower as Idefics 2 and 3 and SmolVLM write it: positions for any shape, no pooling head."""

from __future__ import annotations

from typing import Any, Final

from tonnage.families._pieces import layer_norm
from tonnage.families._towers import clip_layer, convolution, repeated, side, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``Idefics3VisionTransformer`` and its like."""
    D, F, patch = k.need("hidden_size"), k.need("intermediate_size"), side(k, "patch_size")
    rows = (side(k, "image_size") // patch) ** 2
    k.skip("hidden_act", "attention_dropout", "size", "max_image_size", "tie_word_embeddings", "use_base_siglip")
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    first = tower(
        "vision",
        path,
        *convolution("embeddings.patch_embedding", k.need("num_channels"), D, patch, patch),
        Tensor("embeddings.position_embedding.weight", (("P", rows), ("D", D)), "vision"),
        layer_norm("post_layernorm", D),
    )
    return D, first + repeated("vision", f"{path}.encoder.layers", k.need("num_hidden_layers"), *clip_layer(D, F))


_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 1152,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
}

TOWER: Final = Tower(
    read=read,
    defaults={
        "idefics2_vision": {**_SIZES, "hidden_size": 768, "num_attention_heads": 12},
        "idefics3_vision": _SIZES,
        "smolvlm_vision": _SIZES,
    },
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/idefics3/"
    "modeling_idefics3.py",
)
