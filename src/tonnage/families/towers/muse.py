"""Muse's tower: patches of two frames, layers over windows of them and over the image."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Rotary
from tonnage.arch.parts import Part
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import feed_forward, repeated, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``MuseGlimmerVisionModel`` or ``MuseSparkVisionModel``."""
    D, N, L = k.need("hidden_size"), k.need("num_attention_heads"), k.need("num_hidden_layers")
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    pixels, rows = (
        3 * k.need("patch_temporal") * k.need("patch_size") ** 2,
        k.need("pos_emb_height") * k.need("pos_emb_width"),
    )
    k.skip("hidden_act", "merge_size", "max_position_embeddings", "layer_types")
    width = ("D", D)
    layer: tuple[Part, ...] = (
        layer_norm("norm1", D),
        layer_norm("norm2", D),
        *(matrix(f"attn.{name}", width, width, "vision") for name in ("proj", "q_proj", "k_proj", "v_proj")),
        *feed_forward("mlp", D, k.need("intermediate_size")),
    )
    first = tower(
        "vision",
        path,
        matrix("patch_embedder.patch_embedding", ("X", pixels), width, "vision", bias=False),
        Tensor("patch_embedder.position_embedding_table.weight", (("P", rows), width), "vision"),
        layer_norm("ln_pre", D),
        layer_norm("ln_post", D),
        Rotary("rotary_emb", H // 2),
    )
    return D, first + repeated("vision", f"{path}.layers", L, *layer)


_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 50,
    "num_attention_heads": 16,
    "patch_size": 14,
    "patch_temporal": 2,
    "pos_emb_height": 32,
    "pos_emb_width": 32,
}

TOWER: Final = Tower(
    read=read,
    defaults={"muse_glimmer_vision": _SIZES, "muse_spark_vision": _SIZES},
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/muse_glimmer/"
    "modeling_muse_glimmer.py",
)
