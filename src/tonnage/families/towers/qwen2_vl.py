"""Qwen2-VL's tower: patches of two frames, layers of attention, a merger of neighbouring patches (arXiv:2409.12191)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Rotary
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import NAMES, convolution, feed_forward, repeated, side, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``Qwen2VisionTransformerPretrainedModel``."""
    D, patch, frames = k.need("embed_dim"), side(k, "patch_size"), k.need("temporal_patch_size")
    H = k.divides("embed_dim", "num_heads", D, k.need("num_heads"))
    out, merged = k.need("hidden_size"), D * k.need("spatial_merge_size") ** 2
    # Releases state the channels under another name, which transformers does not read.
    k.skip("hidden_act", "in_chans", "spatial_patch_size")
    first = tower(
        "vision",
        path,
        *convolution("patch_embed.proj", k.need("in_channels"), D, frames, patch, patch, bias=False),
        layer_norm("merger.ln_q", D),
        matrix("merger.mlp.0", ("X", merged), ("X", merged), "vision"),
        matrix("merger.mlp.2", ("X", merged), ("D", out), "vision"),
        Rotary("rotary_pos_emb", H // 2),
    )
    return out, first + repeated("vision", f"{path}.blocks", k.need("depth"), *layer(D, D * k.need("mlp_ratio")))


def layer(D: int, F: int) -> tuple[Any, ...]:
    """Attention with queries, keys and values in one matrix, and a plain feed-forward block."""
    return (
        layer_norm("norm1", D),
        layer_norm("norm2", D),
        matrix("attn.qkv", ("D", D), ("X", 3 * D), "vision"),
        matrix("attn.proj", ("D", D), ("D", D), "vision"),
        *feed_forward("mlp", D, F),
    )


_SIZES: Final[dict[str, Any]] = {
    "depth": 32,
    "embed_dim": 1280,
    "hidden_size": 3584,
    "mlp_ratio": 4,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}

TOWER: Final = Tower(
    read=read,
    defaults={"qwen2_vl_vision": _SIZES},
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen2_vl/"
    "modeling_qwen2_vl.py",
    attributes=NAMES,
)
