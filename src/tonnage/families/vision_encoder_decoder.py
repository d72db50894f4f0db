"""A tower for images and a decoder of any type, such as TrOCR's or Donut's (arXiv:2109.10282, arXiv:2111.15664)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._language import unpassed
from tonnage.families._paired import between, language_decoder
from tonnage.families.towers import seen
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build ``VisionEncoderDecoderModel``."""
    width, tensors = seen(k, "encoder", "vit", key="encoder")
    target = language_decoder(k)
    # The class unties its own head; the decoder ties as its own config says.
    k.skip("tie_word_embeddings", "tie_encoder_decoder")
    extra = (*target.model.extra, *tensors, *between(k, width, target))
    return unpassed(target.model.but(model_type="vision-encoder-decoder", extra=extra), "a model that reads images")


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/vision_encoder_decoder/"
    "modeling_vision_encoder_decoder.py",
)
