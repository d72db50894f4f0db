"""LFM2-VL: LFM2 behind SigLIP 2's tower, neighbouring patches as one, a norm and two matrices."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.arch.sight.crops import Processor
from tonnage.arch.sight.flexible import Flexible, Unshuffled
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families.towers import sighted
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build ``Lfm2VlForConditionalGeneration``."""
    text = language(k, "model.language_model", "lfm2")
    sight = sighted(k, "model.vision_tower", "siglip2_vision_model")
    factor, path = k.size("downsample_factor", 2), "model.multi_modal_projector"
    ins, inner = sight.width * factor**2, ("F", k.size("projector_hidden_size", 2560))
    bias = k.want("projector_bias", True)
    norm = layer_norm(f"{path}.layer_norm", ins) if k.want("projector_use_layernorm", True) else None
    first = matrix(f"{path}.linear_1", ("X", ins), inner, "vision", bias=bias)
    second = matrix(f"{path}.linear_2", inner, ("D", text.model.width), "vision", bias=bias)
    parts: list[Part] = [part for part in (norm, first, second) if part is not None]
    act = k.optional("projector_hidden_act", str, "gelu") or "gelu"
    k.skip("max_num_patches", "use_image_special_tokens", "vision_feature_layer")
    processor = _processor(k, factor)
    # An older name of the key wins where it is given.
    tied = k.want("tie_word_embeddings", True)
    tied = k.want("tie_embedding", tied) if "tie_embedding" in k.config else tied
    projector = tuple(Tensor(t.name, t.axes, "vision", t.dims) for part in parts for t in part.weights())
    model = headed(text.model, tied, extra=sight.tensors + projector)
    if not isinstance(sight.tower, Flexible):
        return model
    return model.but(
        eye=Unshuffled(
            tower=sight.tower, factor=factor, norm=norm, first=first, second=second, act=act, processor=processor
        )
    )


SETTINGS: Final = {
    "encoder_patch_size": "patch", "min_image_tokens": "least", "max_image_tokens": "most", "tile_size": "tile",
    "min_tiles": "fewest", "max_tiles": "largest", "do_image_splitting": "splits", "use_thumbnail": "thumbnail",
    "max_pixels_tolerance": "tolerance",
}  # fmt: skip
"""Keys of the processor that released configs repeat."""


def _processor(k: Keys, factor: int) -> Processor:
    """How pictures are cut."""
    known = Processor(factor=factor)
    said = {SETTINGS[key]: k.want(key, getattr(known, SETTINGS[key])) for key in SETTINGS if key in k.config}
    return known.but(**said)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/lfm2_vl/"
    "modeling_lfm2_vl.py",
)
