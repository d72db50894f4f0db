"""Qwen2.5-VL's tower: Qwen2-VL's with windows, RMS norms and gated feed-forward blocks (arXiv:2502.13923)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.parts import Part
from tonnage.families._pieces import matrix
from tonnage.families._towers import NAMES, convolution, repeated, side, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``Qwen2_5_VisionTransformerPretrainedModel`` and its like."""
    D, patch, frames = k.need("hidden_size"), side(k, "patch_size"), k.need("temporal_patch_size")
    out, merged = k.need("out_hidden_size"), D * k.need("spatial_merge_size") ** 2
    N = k.need("num_heads")
    H = k.divides("hidden_size", "num_heads", D, N)
    k.skip("hidden_act", "in_chans", "spatial_patch_size", "tokens_per_second", "window_size", "fullatt_block_indexes")
    first = tower(
        "vision",
        path,
        *convolution("patch_embed.proj", k.need("in_channels"), D, frames, patch, patch, bias=False),
        Norm("merger.ln_q", (("D", D),)),
        matrix("merger.mlp.0", ("X", merged), ("X", merged), "vision"),
        matrix("merger.mlp.2", ("X", merged), ("D", out), "vision"),
        Rotary("rotary_pos_emb", H // 2),
    )
    layer = (
        *(Norm(name, (("D", D),)) for name in ("norm1", "norm2")),
        *_attention(k, D, N, H),
        *gated(D, k.need("intermediate_size")),
    )
    return out, first + repeated("vision", f"{path}.blocks", k.need("depth"), *layer)


def _attention(k: Keys, D: int, N: int, H: int) -> tuple[Part, ...]:
    width, kind = ("D", D), k.config["model_type"]
    out = matrix("attn.proj", width, width, "vision")
    if kind == "qwen2_5_omni_vision_encoder":
        return (*(matrix(f"attn.{name}", width, width, "vision") for name in "qkv"), out)
    # EXAONE 4.5 shares keys and values between heads.
    heads = N + 2 * k.need("num_key_value_heads") if kind == "exaone4_5_vision" else 3 * N
    return matrix("attn.qkv", width, ("X", heads * H), "vision"), out


def gated(D: int, F: int, *, bias: bool = True) -> tuple[Part, ...]:
    """The three matrices of a gated feed-forward block."""
    width, inner = ("D", D), ("F", F)
    return (
        *(matrix(f"mlp.{name}_proj", width, inner, "vision", bias=bias) for name in ("gate", "up")),
        matrix("mlp.down_proj", inner, width, "vision", bias=bias),
    )


_SIZES: Final[dict[str, Any]] = {
    "depth": 32,
    "hidden_size": 3584,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 3584,
}

TOWER: Final = Tower(
    read=read,
    defaults={
        "exaone4_5_vision": {**_SIZES, "num_key_value_heads": 8},
        "qwen2_5_omni_vision_encoder": _SIZES,
        "qwen2_5_vl_vision": _SIZES,
    },
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen2_5_vl/"
    "modeling_qwen2_5_vl.py",
    attributes=NAMES,
)
