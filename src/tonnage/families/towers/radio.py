"""C-RADIO's tower: positions of the largest image, tokens for what is seen as a whole (arXiv:2412.07679)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.parts import Part
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import feed_forward, repeated, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``RadioModel`` without the numbers by which images are scaled, which the model around it applies."""
    D, patch, bias = k.need("hidden_size"), k.need("patch_size"), k.want("qkv_bias", True)
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    tokens, frames = k.size("num_cls_tokens", 3) + k.size("num_registers", 7), k.optional("video_temporal_patch_size")
    pixels, rows = k.size("num_channels", 3) * patch**2, (k.size("max_img_size", 2048) // patch) ** 2
    seen = k.optional("summary_idxs", list)
    k.refuse("use_swiglu_ffn")
    k.skip("hidden_act", "attention_probs_dropout_prob", "hidden_dropout_prob", "drop_path_rate", "layerscale_value")
    k.skip("image_size", "patch_dim", "video_patch_dim", "norm_mean", "norm_std")
    width = ("D", D)
    first: list[Part | Tensor] = [
        Tensor("embeddings.position_embedding", (("B", 1), ("P", rows), width), "vision"),
        Tensor("embeddings.cls_register_token", (("T", tokens), width), "vision"),
        matrix("embeddings.patch_projection", ("X", pixels), width, "vision", bias=False),
        Tensor("summary_idxs", (("X", 2 if seen is None else len(seen)),), "buffer", dtype="int64"),
    ]
    if frames is not None:
        first.append(matrix("embeddings.video_patch_projection", ("X", pixels * frames), width, "vision", bias=False))
    layer: tuple[Part | Tensor, ...] = (
        layer_norm("norm1", D),
        layer_norm("norm2", D),
        *(matrix(f"attention.{x}_proj", width, width, "vision", bias=bias) for x in "qkv"),
        matrix("attention.o_proj", width, width, "vision"),
        *feed_forward("mlp", D, int(D * k.want("mlp_ratio", 4.0))),
        *(Tensor(f"layer_scale{index}.lambda1", (width,), "vision") for index in (1, 2)),
    )
    layers = repeated("vision", f"{path}.encoder.layer", k.need("num_hidden_layers"), *layer)
    return D, tower("vision", path, *first) + layers


TOWER: Final = Tower(
    read=read,
    defaults={
        "radio": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "patch_size": 16},
    },
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/radio/modeling_radio.py",
)
