"""Segment Anything's tower, as models of images and text nest it (arXiv:2304.02643)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.parts import Loose
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution, feed_forward, side, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

SAM: Final[dict[str, Any]] = {
    "hidden_size": 768,
    "output_channels": 256,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 1024,
    "patch_size": 16,
    "window_size": 14,
    "global_attn_indexes": [2, 5, 8, 11],
}
"""Defaults of ``SamVisionConfig``."""


def sam(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """Output channels and tensors of SAM's tower: relative positions over the window, or the image in global layers."""
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    ratio = k.want("mlp_ratio", 4.0)
    F = k.optional("mlp_dim") or int(D * ratio)
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    patch, channels, outs = side(k, "patch_size"), k.need("num_channels"), k.need("output_channels")
    grid, window = side(k, "image_size") // patch, k.need("window_size")
    whole = set(k.optional("global_attn_indexes", list) or ())
    relative, absolute, bias = k.want("use_rel_pos", True), k.want("use_abs_pos", True), k.want("qkv_bias", True)
    k.skip("hidden_act", "attention_dropout", "num_pos_feats")
    found = tower(
        "vision",
        path,
        *convolution("patch_embed.projection", channels, D, patch, patch),
        *convolution("neck.conv1", D, outs, 1, 1, bias=False),
        layer_norm("neck.layer_norm1", outs),
        *convolution("neck.conv2", outs, outs, 3, 3, bias=False),
        layer_norm("neck.layer_norm2", outs),
    )
    if absolute:
        found += (Tensor(f"{path}.pos_embed", (("B", 1), ("X", grid), ("P", grid), ("D", D)), "vision"),)
    for index in range(k.need("num_hidden_layers")):
        rows = 2 * (grid if index in whole or not window else window) - 1
        tables = (
            tuple(Tensor(f"attn.rel_pos_{at}", (("P", rows), ("H", H)), "vision") for at in "hw") if relative else ()
        )
        found += tower(
            "vision",
            f"{path}.layers.{index}",
            layer_norm("layer_norm1", D),
            matrix("attn.qkv", ("D", D), ("X", 3 * D), "vision", bias=bias),
            matrix("attn.proj", ("D", D), ("D", D), "vision"),
            Loose(tables),
            layer_norm("layer_norm2", D),
            *feed_forward("mlp", D, F, "lin1", "lin2"),
        )
    return outs, found
