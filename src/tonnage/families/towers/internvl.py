"""InternVL's tower: a vision transformer that scales what every block adds (arXiv:2312.14238)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Norm
from tonnage.arch.parts import Part
from tonnage.errors import UnsupportedError
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution, feed_forward, repeated, side, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``InternVLVisionModel`` or ``QianfanOCRVisionModel``, whose list of layers has another path."""
    D, patch = k.need("hidden_size"), side(k, "patch_size")
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    width = (("D", D),)
    first: list[Tensor | Part] = [
        Tensor("embeddings.cls_token", (("B", 1), ("T", 1), *width), "vision"),
        *convolution("embeddings.patch_embeddings.projection", k.need("num_channels"), D, patch, patch),
    ]
    if k.want("use_mask_token", False):
        first.append(Tensor("embeddings.mask_token", (("B", 1), ("T", 1), *width), "vision"))
    rows = (side(k, "image_size") // patch) ** 2 + 1
    if k.want("use_absolute_position_embeddings", True):
        first.append(Tensor("embeddings.position_embeddings", (("B", 1), ("P", rows), *width), "vision"))
    if not k.want("use_mean_pooling", True):
        first.append(layer_norm("layernorm", D))
    k.skip("hidden_act", "hidden_dropout_prob", "attention_dropout", "projection_dropout", "layer_scale_init_value")
    k.skip("drop_path_rate")
    layers = f"{path}.layers" if k.config["model_type"] == "qianfan_ocr_vision" else f"{path}.encoder.layer"
    return D, tower("vision", path, *first) + repeated("vision", layers, k.need("num_hidden_layers"), *_layer(k, D))


def _layer(k: Keys, D: int) -> tuple[Part | Tensor, ...]:
    side_, bias, style = ("D", D), k.want("attention_bias", k.config["model_type"] != "internvl_vision"), _norm(k)
    norms = (Norm(f"layernorm_{name}", (side_,), "layer", bias=style) for name in ("before", "after"))
    heads = (Norm(f"attention.{x}_norm", (side_,)) for x in "qk" if k.want("use_qk_norm", False))
    return (
        *(Tensor(f"lambda_{index}", (side_,), "vision") for index in (1, 2)),
        *(matrix(f"attention.{x}_proj", side_, side_, "vision", bias=bias) for x in "qkv"),
        matrix("attention.projection_layer", side_, side_, "vision"),
        *heads,
        *feed_forward("mlp", D, k.need("intermediate_size")),
        *norms,
    )


def _norm(k: Keys) -> bool:
    """Whether the layers' norms have a shift."""
    style = k.want("norm_type", "layer_norm")
    if style not in ("layer_norm", "rms_norm"):
        raise UnsupportedError(f"{k.path}norm_type = {style!r} is not modelled", key=f"{k.path}norm_type", value=style)
    return style == "layer_norm"


_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 448,
    "patch_size": 14,
}

TOWER: Final = Tower(
    read=read,
    defaults={"internvl_vision": _SIZES, "qianfan_ocr_vision": _SIZES},
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/internvl/"
    "modeling_internvl.py",
)
