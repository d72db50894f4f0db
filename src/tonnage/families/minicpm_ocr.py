"""MiniCPM-V 4.6 and 4.7 and MiniCPM-OCR: Qwen3.5 behind SigLIP's layers, among which windows of patches are joined."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._composite import filled
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import attention, clip_layer, convolution, repeated, side, sizes, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

VISION: Final[dict[str, Any]] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
}


def read(k: Keys) -> Model:
    """Build the model that ``MiniCPMV4_6ForConditionalGeneration`` or its like builds."""
    kind = str(k.config["model_type"])
    text = language(k, "model.language_model", "qwen3_5_text").model
    width, tensors = filled(k, "vision_config", VISION, _images)
    times = k.size("merger_times", 1)
    k.skip("insert_layer_id", "image_size", "drop_vision_last_layer", "downsample_mode", "merge_kernel_size")
    k.skip("patch_size", "image_start_id", "image_end_id", "slice_start_id", "slice_end_id", "newline_id")
    for index in range(times):
        out = text.width if index == times - 1 else width
        tensors += tower("vision", f"model.merger.mlp.{index}", *_joined(width * 4, width * 4, out, "pre_norm"))
    tied = k.want("tie_word_embeddings", kind == "minicpm_ocr")
    return headed(text, tied, extra=tensors).but(model_type=kind)


def _joined(ins: int, inner: int, out: int, norm: str) -> tuple[Part, ...]:
    return (
        layer_norm(norm, ins),
        matrix("linear_1", ("X", ins), ("F", inner), "vision"),
        matrix("linear_2", ("F", inner), ("D", out), "vision"),
    )


def _images(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    D, F, patch, path = k.need("hidden_size"), k.need("intermediate_size"), side(k, "patch_size"), "model.vision_tower"
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    rows = (side(k, "image_size") // patch) ** 2
    high, wide = sizes(k, "window_kernel_size", (2, 2), many=2)
    k.skip("hidden_act", "attention_dropout", "insert_layer_id")
    first = tower(
        "vision",
        path,
        *convolution("embeddings.patch_embedding", k.need("num_channels"), D, patch, patch),
        Tensor("embeddings.position_embedding.weight", (("P", rows), ("D", D)), "vision"),
        layer_norm("post_layernorm", D),
    )
    window = tower(
        "vision",
        f"{path}.vit_merger",
        *attention("self_attn", D),
        layer_norm("layer_norm1", D),
        *_joined(D * high * wide, F * high * wide, D, "pre_norm"),
    )
    layers = repeated("vision", f"{path}.encoder.layers", k.need("num_hidden_layers"), *clip_layer(D, F))
    return D, first + window + layers


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/minicpmv4_6/"
    "modeling_minicpmv4_6.py",
)
