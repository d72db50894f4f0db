"""LFM2-VL: LFM2 behind SigLIP 2's tower, neighbouring patches as one, a norm and two matrices."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import tower
from tonnage.families.towers import seen
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build ``Lfm2VlForConditionalGeneration``."""
    text = language(k, "model.language_model", "lfm2")
    width, tensors = seen(k, "model.vision_tower", "siglip2_vision_model")
    ins, inner = width * k.size("downsample_factor", 2) ** 2, ("F", k.size("projector_hidden_size", 2560))
    bias = k.want("projector_bias", True)
    parts: list[Part] = [layer_norm("layer_norm", ins)] if k.want("projector_use_layernorm", True) else []
    parts.append(matrix("linear_1", ("X", ins), inner, "vision", bias=bias))
    parts.append(matrix("linear_2", inner, ("D", text.model.width), "vision", bias=bias))
    projector = tower("vision", "model.multi_modal_projector", *parts)
    k.skip("projector_hidden_act", "do_image_splitting", "encoder_patch_size", "max_image_tokens", "min_image_tokens")
    k.skip("max_num_patches", "max_pixels_tolerance", "max_tiles", "min_tiles", "tile_size", "use_image_special_tokens")
    k.skip("use_thumbnail", "vision_feature_layer")
    # An older name of the key wins where it is given.
    tied = k.want("tie_word_embeddings", True)
    tied = k.want("tie_embedding", tied) if "tie_embedding" in k.config else tied
    return headed(text.model, tied, extra=tensors + projector)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/lfm2_vl/"
    "modeling_lfm2_vl.py",
)
