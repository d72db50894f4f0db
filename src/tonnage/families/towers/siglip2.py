"""SigLIP 2's tower for images of any shape: a matrix over patches in place of the convolution (arXiv:2502.14786)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._siglip import pooling
from tonnage.families._towers import clip_layer, repeated, side, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``Siglip2VisionModel``, with its pooling head where the config has one."""
    D, F, rows = k.need("hidden_size"), k.need("intermediate_size"), k.need("num_patches")
    pixels = k.need("num_channels") * side(k, "patch_size") ** 2
    k.skip("hidden_act", "attention_dropout", "spatial_merge_size")
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    first = tower(
        "vision",
        path,
        matrix("embeddings.patch_embedding", ("X", pixels), ("D", D), "vision"),
        Tensor("embeddings.position_embedding.weight", (("P", rows), ("D", D)), "vision"),
        layer_norm("post_layernorm", D),
    )
    layers = repeated("vision", f"{path}.encoder.layers", k.need("num_hidden_layers"), *clip_layer(D, F))
    return D, first + layers + (pooling(path, D, F) if k.want("vision_use_head", True) else ())


_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "patch_size": 16,
    "num_patches": 256,
}
_LARGE: Final[dict[str, Any]] = {
    **_SIZES,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "vision_use_head": False,
}

TOWER: Final = Tower(
    read=read,
    defaults={"cosmos3_edge_vision": _LARGE, "siglip2_vision_model": _SIZES},
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip2/"
    "modeling_siglip2.py",
)
