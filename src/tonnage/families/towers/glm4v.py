"""GLM-4V's tower: Qwen2.5-VL's layers, a convolution that joins patches, and a gated merger (arXiv:2507.01006)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.parts import Part
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import NAMES, convolution, repeated, side, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``Glm4vVisionModel``, or ``GlmOcrVisionModel`` and its like: norms of heads in place of learned positions."""
    D, F, patch = k.need("hidden_size"), k.need("intermediate_size"), side(k, "patch_size")
    out, merged, channels = k.need("out_hidden_size"), k.need("spatial_merge_size"), k.need("in_channels")
    H = k.divides("hidden_size", "num_heads", D, k.need("num_heads"))
    normed, biased = k.config["model_type"] in _NORMED, k.need("attention_bias", bool)
    k.skip("hidden_act", "attention_dropout", "swiglu_limit")
    width, inner = (("D", D),), F
    if k.config["model_type"] == "glm5_next_vision":
        inner = k.need("projection_intermediate_size")
    elif normed:
        inner = out * channels
    first: list[Part | Tensor] = [
        *convolution("patch_embed.proj", channels, D, k.need("temporal_patch_size"), patch, patch),
        *convolution("downsample", D, out, merged, merged),
        Norm("post_layernorm", width),
        Rotary("rotary_pos_emb", H // 2),
    ]
    if normed:
        k.skip("image_size")
    else:
        rows = (side(k, "image_size") // patch) ** 2
        first.append(Tensor("embeddings.position_embedding.weight", (("P", rows), *width), "vision"))
        first.append(Norm("post_conv_layernorm", width))
    layer: tuple[Part, ...] = (
        *(Norm(name, width) for name in ("norm1", "norm2")),
        matrix("attn.qkv", ("D", D), ("X", 3 * D), "vision", bias=biased),
        matrix("attn.proj", ("D", D), ("D", D), "vision", bias=biased and normed),
        *(Norm(f"attn.{x}_norm", (("H", H),)) for x in "qk" if normed),
        # The blocks of GLM-4V are as wide inside as what goes out.
        *_gated(D, F if normed else out, bias=biased and normed),
    )
    layers = repeated("vision", f"{path}.blocks", k.need("depth"), *layer)
    return out, tower("vision", path, *first) + layers + tower("vision", f"{path}.merger", *_merger(out, inner))


def _gated(D: int, F: int, *, bias: bool) -> tuple[Part, ...]:
    """The three matrices of a gated feed-forward block."""
    width, inner = ("D", D), ("F", F)
    return (
        *(matrix(f"mlp.{name}_proj", width, inner, "vision", bias=bias) for name in ("gate", "up")),
        matrix("mlp.down_proj", inner, width, "vision", bias=bias),
    )


def _merger(D: int, F: int) -> tuple[Part, ...]:
    width, inner = ("D", D), ("F", F)
    return (
        matrix("proj", width, width, "vision", bias=False),
        layer_norm("post_projection_norm", D),
        *(matrix(f"{name}_proj", width, inner, "vision", bias=False) for name in ("gate", "up")),
        matrix("down_proj", inner, width, "vision", bias=False),
    )


_GLM4V: Final[dict[str, Any]] = {
    "depth": 24,
    "hidden_size": 1536,
    "attention_bias": False,
    "num_heads": 12,
    "in_channels": 3,
    "image_size": 336,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 4096,
    "intermediate_size": 13696,
}
_OCR: Final[dict[str, Any]] = {
    **_GLM4V,
    "hidden_size": 1024,
    "attention_bias": True,
    "num_heads": 16,
    "out_hidden_size": 1536,
    "intermediate_size": 4096,
}
_NORMED: Final = ("glm5_next_vision", "glm_ocr_vision")

TOWER: Final = Tower(
    read=read,
    defaults={
        "glm4v_moe_vision": _GLM4V,
        "glm4v_vision": _GLM4V,
        "glm5_next_vision": {**_OCR, "projection_intermediate_size": 10240},
        "glm_ocr_vision": _OCR,
    },
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/glm4v/modeling_glm4v.py",
    attributes=NAMES,
)
