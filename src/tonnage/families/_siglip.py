"""SigLIP's tower, as models of images and text nest it (arXiv:2303.15343)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import clip_layer, convolution, feed_forward, repeated, side, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

SIGLIP: Final[dict[str, Any]] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "vision_use_head": True,
}
"""Defaults of ``SiglipVisionConfig``."""


def siglip(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """Width and tensors of ``SiglipVisionModel`` below ``path``, with its pooling head where the config has one."""
    D, F, patch = k.need("hidden_size"), k.need("intermediate_size"), side(k, "patch_size")
    rows = (side(k, "image_size") // patch) ** 2
    k.skip("hidden_act", "attention_dropout", "layer_norm_eps")
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    first = tower(
        "vision",
        path,
        *convolution("embeddings.patch_embedding", k.need("num_channels"), D, patch, patch),
        Tensor("embeddings.position_embedding.weight", (("P", rows), ("D", D)), "vision"),
        Tensor("embeddings.position_ids", (("X", 1), ("P", rows)), "buffer", dtype="int64"),
        layer_norm("post_layernorm", D),
    )
    layers = repeated("vision", f"{path}.encoder.layers", k.need("num_hidden_layers"), *clip_layer(D, F))
    return D, first + layers + (pooling(path, D, F) if k.want("vision_use_head", True) else ())


def pooling(path: str, D: int, F: int) -> tuple[Tensor, ...]:
    """One learned query that attends to all patches."""
    return tower(
        "vision",
        f"{path}.head",
        Tensor("probe", (("X", 1), ("T", 1), ("D", D)), "vision"),
        Tensor("attention.in_proj_weight", (("X", 3), ("D", D), ("D", D)), "vision", (2, 1)),
        Tensor("attention.in_proj_bias", (("X", 3), ("D", D)), "vision", (2,)),
        matrix("attention.out_proj", ("D", D), ("D", D), "vision"),
        layer_norm("layernorm", D),
        *feed_forward("mlp", D, F),
    )
