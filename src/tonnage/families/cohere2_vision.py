"""Command A Vision and Aya Vision: Command R7B behind SigLIP's tower, whose neighbouring patches are joined."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import tower
from tonnage.families.towers import seen
from tonnage.keys import Keys

GIVEN: Final[dict[str, dict[str, Any]]] = {
    "aya_vision": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "patch_size": 14,
        "image_size": 384,
        "num_hidden_layers": 26,
        "num_attention_heads": 14,
        "vision_use_head": False,
    },
    "cohere2_vision": {
        "hidden_size": 1152,
        "intermediate_size": 3072,
        "image_size": 512,
        "num_hidden_layers": 27,
        "num_attention_heads": 12,
    },
}
"""The tower where the config has none."""


def read(k: Keys) -> Model:
    """Build ``Cohere2VisionForConditionalGeneration`` or ``AyaVisionForConditionalGeneration``."""
    kind = str(k.config["model_type"])
    text = language(k, "model.language_model", "cohere2").model
    width, tensors = seen(k, "model.vision_tower", "siglip_vision_model", given=GIVEN[kind])
    D, aya = text.width, kind == "aya_vision"
    joined = width * k.size("downsample_factor", 2) ** 2
    aligned = k.size("alignment_intermediate_size", D if aya else 36864)
    k.skip("adapter_layer_norm_eps", "vision_feature_layer", "vision_feature_select_strategy", "max_splits_per_img")
    tensors += tower(
        "vision",
        "model.multi_modal_projector",
        *((layer_norm("layernorm", joined),) if aya else ()),
        matrix("linear_1", ("X", joined), ("X", aligned), "vision"),
        matrix("linear_2", ("X", aligned // 2), ("D", D), "vision"),
    )
    return headed(text, k.want("tie_word_embeddings", True), extra=tensors).but(model_type=kind)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/cohere2_vision/"
    "modeling_cohere2_vision.py",
    attributes={"image_token_id": "image_token_index"},
)
