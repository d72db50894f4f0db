"""Donut's tower: windows that move, and four neighbouring patches as one between its stages (arXiv:2103.14030)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution, side, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``DonutSwinModel``, whose width doubles from stage to stage."""
    D, patch, depths, heads = (
        k.need("embed_dim"),
        side(k, "patch_size"),
        k.need("depths", list),
        k.need("num_heads", list),
    )
    window, times, bias = k.need("window_size"), k.want("mlp_ratio", 4.0), k.want("qkv_bias", True)
    if len(depths) != len(heads):
        raise ConfigError(
            f"{k.path}num_heads has {len(heads)} entries for {len(depths)} stages", key=f"{k.path}num_heads"
        )
    k.skip("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate", "hidden_size")
    k.skip("num_layers", "path_norm", "encoder_stride")
    height, width = _grid(k, patch)
    found = tower(
        "vision",
        path,
        *convolution("embeddings.patch_embeddings.projection", k.need("num_channels"), D, patch, patch),
        layer_norm("embeddings.norm", D),
    )
    if k.want("use_absolute_embeddings", False):
        rows = height * width + 1
        found += (Tensor(f"{path}.embeddings.position_embeddings", (("B", 1), ("P", rows), ("D", D)), "vision"),)
    for stage, (depth, N) in enumerate(zip(depths, heads, strict=True)):
        k.divides("embed_dim", "num_heads", D, N)
        block = _block(D, N, int(times * D), window, bias)
        layers = f"{path}.encoder.layers.{stage}"
        for index in range(depth):
            found += tower("vision", f"{layers}.blocks.{index}", *block)
        if stage < len(depths) - 1:
            reduction = matrix("downsample.reduction", ("X", 4 * D), ("X", 2 * D), "vision", bias=False)
            found += tower("vision", layers, reduction, layer_norm("downsample.norm", 4 * D))
            D *= 2
    return D, found


def _grid(k: Keys, patch: int) -> tuple[int, int]:
    """Patches of an image from top to bottom and from left to right."""
    size = k.config.get("image_size")
    k.skip("image_size")
    sides: list[Any] = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(isinstance(n, int) and n > 0 for n in sides):
        raise ConfigError(f"{k.path}image_size must be one or two numbers", key=f"{k.path}image_size", value=size)
    return sides[0] // patch, sides[1] // patch


def _block(D: int, N: int, F: int, window: int, bias: bool) -> tuple[Part | Tensor, ...]:
    width, name = ("D", D), "attention.self"
    cells = window**2
    return (
        layer_norm("layernorm_before", D),
        Tensor(f"{name}.relative_position_bias_table", (("P", (2 * window - 1) ** 2), ("N", N)), "vision"),
        Tensor(f"{name}.relative_position_index", (("P", cells), ("X", cells)), "buffer", dtype="int64"),
        *(matrix(f"{name}.{part}", width, width, "vision", bias=bias) for part in ("query", "key", "value")),
        matrix("attention.output.dense", width, width, "vision"),
        layer_norm("layernorm_after", D),
        matrix("intermediate.dense", width, ("F", F), "vision"),
        matrix("output.dense", ("F", F), width, "vision"),
    )


_SIZES: Final[dict[str, Any]] = {
    "image_size": 224,
    "patch_size": 4,
    "num_channels": 3,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
}

TOWER: Final = Tower(
    read=read,
    defaults={"donut-swin": _SIZES},
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/donut/"
    "modeling_donut_swin.py",
)
