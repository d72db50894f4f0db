"""InternVL and Qianfan-OCR: four neighbouring patches as one, a norm and two matrices (arXiv:2504.10479)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import tower
from tonnage.families.towers import seen
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build ``InternVLForConditionalGeneration`` or ``QianfanOCRForConditionalGeneration``."""
    qianfan = k.config["model_type"] == "qianfan_ocr"
    text = language(k, "model.language_model", "qwen3" if qianfan else "qwen2")
    kind = "qianfan_ocr_vision" if qianfan else "internvl_vision"
    width, tensors = seen(k, "model.vision_tower", kind, fixed=True)
    D, ratio = text.model.width, k.want("downsample_ratio", 0.5)
    if not 0 < ratio <= 1:
        raise ConfigError(
            f"downsample_ratio = {ratio} is not a share", key="downsample_ratio", value=ratio, file=k.file
        )
    ins = width * int(1 / ratio) ** 2
    projector = tower(
        "vision",
        "model.multi_modal_projector",
        layer_norm("layer_norm", ins),
        matrix("linear_1", ("X", ins), ("D", D), "vision"),
        matrix("linear_2", ("D", D), ("D", D), "vision"),
    )
    k.skip("image_seq_length", "projector_hidden_act", "vision_feature_layer", "vision_feature_select_strategy")
    return headed(text.model, k.want("tie_word_embeddings", not qianfan), extra=tensors + projector)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/internvl/"
    "modeling_internvl.py",
)
