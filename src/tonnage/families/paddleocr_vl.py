"""PaddleOCR-VL: ERNIE 4.5 with positions in three dimensions behind SigLIP's tower (arXiv:2510.14528)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Rotary
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._composite import filled
from tonnage.families._language import headed, language, unpassed
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._siglip import siglip
from tonnage.families._towers import tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

VISION: Final[dict[str, Any]] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}


def read(k: Keys) -> Model:
    """Build the model that ``PaddleOCRVLForConditionalGeneration`` builds."""
    text = language(k, "model.language_model", "paddleocr_vl_text", like="ernie4_5", flat=True)
    D = text.model.width
    width, merged, tensors = filled(k, "vision_config", VISION, _images)
    joined = ("X", width * merged)
    tensors += tower(
        "vision",
        "model.projector",
        layer_norm("pre_norm", width),
        matrix("linear_1", joined, joined, "vision"),
        matrix("linear_2", joined, ("D", D), "vision"),
    )
    tied = k.want("tie_word_embeddings", True) or text.tied
    model = unpassed(text.model, "attention with positions in three dimensions")
    return headed(model, tied, extra=tensors).but(model_type="paddleocr_vl")


def _images(k: Keys) -> tuple[int, int, tuple[Tensor, ...]]:
    """Width, patches that are joined, and tensors of the tower."""
    path = "model.visual.vision_model"
    sight = siglip(k, path)
    width, tensors = sight.width, sight.tensors
    turned = k.divides("hidden_size", "num_attention_heads", width, k.need("num_attention_heads")) // 2
    merged = k.size("spatial_merge_size", 2) ** 2
    k.skip("temporal_patch_size", "tokens_per_second", "pad_token_id")
    return width, merged, tensors + tower("vision", f"{path}.encoder", Rotary("rotary_pos_emb", turned))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/paddleocr_vl/"
    "modeling_paddleocr_vl.py",
)
