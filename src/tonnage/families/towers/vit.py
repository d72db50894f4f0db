"""The vision transformer, and DeiT, which has a second token for what a teacher says (arXiv:2010.11929)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.parts import Part
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution, feed_forward, repeated, side, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``ViTModel`` or ``DeiTModel`` with the pooler."""
    D, F, patch = k.need("hidden_size"), k.need("intermediate_size"), side(k, "patch_size")
    tokens = ("cls_token", "distillation_token") if k.config["model_type"] == "deit" else ("cls_token",)
    rows = (side(k, "image_size") // patch) ** 2 + len(tokens)
    N = k.need("num_attention_heads")
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    width, heads, bias = ("D", D), ("X", N * H), k.want("qkv_bias", True)
    k.skip("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "encoder_stride", "pooler_act")
    layer: tuple[Part, ...] = (
        *(matrix(f"attention.{x}_proj", width, heads, "vision", bias=bias) for x in "qkv"),
        matrix("attention.o_proj", heads, width, "vision"),
        layer_norm("layernorm_before", D),
        layer_norm("layernorm_after", D),
        *feed_forward("mlp", D, F),
    )
    first = tower(
        "vision",
        path,
        *(Tensor(f"embeddings.{name}", (("B", 1), ("T", 1), width), "vision") for name in tokens),
        Tensor("embeddings.position_embeddings", (("B", 1), ("P", rows), width), "vision"),
        *convolution("embeddings.patch_embeddings.projection", k.need("num_channels"), D, patch, patch),
        layer_norm("layernorm", D),
        matrix("pooler.dense", width, ("X", k.optional("pooler_output_size") or D), "vision"),
    )
    return D, first + repeated("vision", f"{path}.layers", k.need("num_hidden_layers"), *layer)


_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
}

TOWER: Final = Tower(
    read=read,
    defaults={"deit": _SIZES, "vit": _SIZES},
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/vit/modeling_vit.py",
)
