"""Granite 4 Vision: Granite whose layers take up windows of patches, each by querying transformers of their own."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import headed, language, unpassed
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._qformer import QFORMER, qformer
from tonnage.families._towers import tower
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Tensor

ONE: Final[dict[str, Any]] = {
    "num_hidden_layers": 1,
    "cross_attention_frequency": 1,
    "max_position_embeddings": 2048,
}
"""The querying transformer where there is no config of it."""

CORNERS: Final = 4
"""Patches of a square of two by two, one for each projector that samples."""


def read(k: Keys) -> Model:
    """Build ``Granite4VisionForConditionalGeneration``."""
    text = language(k, "model.language_model", "granite", fixed=True)
    width, tensors = seen(k, "model.vision_tower", "clip_vision_model")
    D = text.model.width
    queries, window = _sides(k)
    pairs = k.need("deepstack_layer_map", list)
    k.skip("vision_feature_select_strategy", "vision_feature_layer", "image_grid_pinpoints", "image_seq_length")
    k.skip("spatial_vision_layer", "spatial_target_layers", "projector_dropout")
    heads = max(width // 64, 1)
    stated = k.config.get("qformer_config") is not None
    defaults = {**QFORMER, **({} if stated else ONE), "hidden_size": width, "num_attention_heads": heads}
    overruled = ("hidden_size", "num_attention_heads", "encoder_hidden_size", "model_type")
    _, inner = read_inner(
        k, "qformer_config", defaults, lambda q: qformer(q, "qformer", width, reads=None), less=overruled
    )
    parts: tuple[Part | Tensor, ...] = (
        *inner,
        layer_norm("norm", width),
        Tensor("query", (("B", 1), ("T", queries**2), ("D", width)), "vision"),
        Tensor("image_positions", (("B", 1), ("P", window**2), ("D", width)), "vision"),
        matrix("out_linear", ("X", width), ("D", D), "vision"),
    )
    for name, count in (("layerwise", len(pairs)), ("spatial", CORNERS)):
        for index in range(count):
            tensors += tower("vision", f"model.{name}_projectors.{index}", *parts)
    newline = Tensor("model.image_newline", (("D", D),), "vision")
    model = headed(text.model, k.want("tie_word_embeddings", False), extra=(*tensors, newline))
    return unpassed(model, "Granite 4 Vision, whose layers take up what the tower sees")


def _sides(k: Keys) -> tuple[int, int]:
    """Queries and patches along the side of a window: ``downsample_rate`` is a fraction of the two."""
    rate = k.need("downsample_rate", str)
    first, _, second = rate.partition("/")
    if not (first.isdecimal() and second.isdecimal() and int(first) and int(second)):
        raise ConfigError(f"downsample_rate must be a fraction, not {rate!r}", key="downsample_rate", value=rate)
    return int(first), int(second)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/granite4_vision/"
    "modeling_granite4_vision.py",
    attributes={"image_token_id": "image_token_index"},
)
