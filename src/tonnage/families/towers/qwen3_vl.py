"""Qwen3-VL's tower: learned positions, and mergers whose output goes to early layers of the text (arXiv:2511.21631)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Rotary
from tonnage.arch.parts import Part
from tonnage.families._hybrid import whole_numbers
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import NAMES, convolution, feed_forward, repeated, side, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

DEEP: Final = (8, 16, 24)
"""Layers whose output is merged beside the last one's where the config says nothing."""


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``Qwen3VLVisionModel`` and its like."""
    D, patch, frames = k.need("hidden_size"), side(k, "patch_size"), k.need("temporal_patch_size")
    out, merged = k.need("out_hidden_size"), D * k.need("spatial_merge_size") ** 2
    H = k.divides("hidden_size", "num_heads", D, k.need("num_heads"))
    k.skip("hidden_act")
    if k.config["model_type"] not in _DEEP:
        # Qwen3.5's class has the key and does nothing with it.
        k.skip("deepstack_visual_indexes")
    kind = k.config["model_type"]
    deep = _deep(k) if kind in _DEEP else 0
    omni = kind == "qwen3_omni_moe_vision_encoder"
    first = tower(
        "vision",
        path,
        *convolution("patch_embed.proj", k.need("in_channels"), D, frames, patch, patch),
        Tensor("pos_embed.weight", (("P", k.need("num_position_embeddings")), ("D", D)), "vision"),
        Rotary("rotary_pos_emb", H // 2),
    )
    layer: tuple[Part, ...] = (
        layer_norm("norm1", D),
        layer_norm("norm2", D),
        matrix("attn.qkv", ("D", D), ("X", 3 * D), "vision"),
        matrix("attn.proj", ("D", D), ("D", D), "vision"),
        *feed_forward("mlp", D, k.need("intermediate_size"), "linear_fc1", "linear_fc2"),
    )
    return out, (
        *first,
        *repeated("vision", f"{path}.blocks", k.need("depth"), *layer),
        *tower("vision", f"{path}.merger", *_merger(D, merged, out, omni)),
        *repeated(
            "vision",
            f"{path}.merger_list" if omni else f"{path}.deepstack_merger_list",
            deep,
            *_merger(merged, merged, out, omni),
        ),
    )


def _deep(k: Keys) -> int:
    stated = whole_numbers(k, "deepstack_visual_indexes")
    return len(DEEP if stated is None else stated)


def _merger(normed: int, merged: int, out: int, omni: bool) -> tuple[Part, ...]:
    """Neighbouring patches to one: a norm over one of them or all, and two matrices."""
    norm, first, second = ("ln_q", "mlp.0", "mlp.2") if omni else ("norm", "linear_fc1", "linear_fc2")
    return (
        layer_norm(norm, normed),
        matrix(first, ("X", merged), ("X", merged), "vision"),
        matrix(second, ("X", merged), ("D", out), "vision"),
    )


_SIZES: Final[dict[str, Any]] = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 3584,
    "num_position_embeddings": 2304,
}
_DEEP: Final = (
    "cohere_compass_vision",
    "qwen3_omni_moe_vision_encoder",
    "qwen3_vl_moe_vision",
    "qwen3_vl_vision",
)

TOWER: Final = Tower(
    read=read,
    defaults=dict.fromkeys((*_DEEP, "qwen3_5_vision", "qwen4_exp_vision"), _SIZES),
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3_vl/"
    "modeling_qwen3_vl.py",
    attributes=NAMES,
)
