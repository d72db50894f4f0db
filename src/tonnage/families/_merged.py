"""A tower whose neighbouring patches one matrix merges: Mistral 3, Mistral Large 4, LightOnOCR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tonnage.arch.layers import Norm
from tonnage.arch.naming import moved
from tonnage.arch.sight.blocks import Merged, Row
from tonnage.families._pieces import matrix
from tonnage.families._towers import chosen_layers, tower
from tonnage.families.towers import numbers, sighted
from tonnage.keys import Keys
from tonnage.record import Record
from tonnage.tensors import Tensor


class Merger(Record):
    """A tower with what stands behind it.

    Args:
        tensors: of both.
        eye: their pass; None where that is not modelled.
    """

    tensors: tuple[Tensor, ...]
    eye: Merged | None


def merged_tower(
    k: Keys,
    D: int,
    *,
    given: Mapping[str, Any],
    path: str = "model.vision_tower",
    projector: str = "model.multi_modal_projector",
    plain: bool = False,
) -> Merger:
    """The tower and what brings it to a language model of width ``D``; ``plain`` has no keys for the latter."""
    sight = sighted(k, path, "pixtral", given=given)
    width, factor = sight.width, k.size("spatial_merge_size", 2)
    layers = (-1,) if plain else chosen_layers(k, -1)
    bias = False if plain else k.want("multimodal_projector_bias", False)
    act = k.optional("projector_hidden_act", str, "gelu") or "gelu"
    norm = Norm("norm", (("D", width),))
    merge = matrix("patch_merger.merging_layer", ("X", factor**2 * width), ("D", width), "vision", bias=False)
    first = matrix("linear_1", ("X", len(layers) * width), ("D", D), "vision", bias=bias)
    second = matrix("linear_2", ("D", D), ("D", D), "vision", bias=bias)
    tensors = sight.tensors + tower("vision", projector, norm, merge, first, second)
    taken = numbers(sight, layers)
    if not isinstance(sight.tower, Row) or len(taken) != 1:
        # The norm has the width of one layer.
        return Merger(tensors, None)
    parts = {"norm": norm, "merge": merge, "first": first, "second": second}
    placed = {name: moved(part, f"{projector}.".__add__) for name, part in parts.items()}
    return Merger(tensors, Merged(tower=sight.tower, taken=taken, factor=factor, act=act, **placed))
