"""A tower whose neighbouring patches one matrix merges: Mistral 3, Mistral Large 4, LightOnOCR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tonnage.arch.layers import Norm
from tonnage.families._pieces import matrix
from tonnage.families._towers import chosen_layers, tower
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def merged_tower(
    k: Keys,
    D: int,
    *,
    given: Mapping[str, Any],
    path: str = "model.vision_tower",
    projector: str = "model.multi_modal_projector",
    plain: bool = False,
) -> tuple[Tensor, ...]:
    """The tower and what brings it to a language model of width ``D``; ``plain`` has no keys for the latter."""
    width, tensors = seen(k, path, "pixtral", given=given)
    merged = k.size("spatial_merge_size", 2) ** 2
    layers, bias = (1, False) if plain else (len(chosen_layers(k, -1)), k.want("multimodal_projector_bias", False))
    k.skip("projector_hidden_act")
    return tensors + tower(
        "vision",
        projector,
        Norm("norm", (("D", width),)),
        matrix("patch_merger.merging_layer", ("X", merged * width), ("D", width), "vision", bias=False),
        matrix("linear_1", ("X", layers * width), ("D", D), "vision", bias=bias),
        matrix("linear_2", ("D", D), ("D", D), "vision", bias=bias),
    )
