"""SigLIP's tower (arXiv:2303.15343)."""

from __future__ import annotations

from typing import Final

from tonnage.families._siglip import SIGLIP, siglip
from tonnage.families.towers import Sight, Tower
from tonnage.keys import Keys


def read(k: Keys, path: str) -> Sight:
    """``SiglipVisionModel``, with its pooling head where the config has one."""
    k.skip("num_image_tokens", "projection_dim", "projector_hidden_act", "vocab_size", "num_positions")
    return siglip(k, path)


TOWER: Final = Tower(
    read=read,
    defaults={"siglip_vision_model": SIGLIP},
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip/modeling_siglip.py",
)
