"""Segment Anything's tower: windows and, in some layers, the whole image (arXiv:2304.02643)."""

from __future__ import annotations

from typing import Final

from tonnage.families._sam import SAM, sam
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``SamVisionModel``, whose encoder is a module of its own."""
    k.skip("scale")
    return sam(k, f"{path}.vision_encoder")


TOWER: Final = Tower(
    read=read,
    defaults={"sam_vision_model": SAM},
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/sam/modeling_sam.py",
)
