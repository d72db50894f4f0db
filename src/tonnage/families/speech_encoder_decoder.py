"""A tower for speech and a decoder of any type that writes down or translates what it hears (arXiv:2104.06678)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._language import unpassed
from tonnage.families._paired import UNREAD, between, language_decoder
from tonnage.families.towers import seen
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build ``SpeechEncoderDecoderModel``, which shares no table between its parts."""
    width, tensors = seen(k, "encoder", "wav2vec2", key="encoder")
    target = language_decoder(k)
    k.skip("tie_word_embeddings", *UNREAD)
    inner = k.inner("encoder")
    hidden = 768 if inner is None else inner.config.get("hidden_size", 768)
    extra = (*target.model.extra, *tensors, *between(k, hidden, target, behind=width))
    return unpassed(target.model.but(model_type="speech-encoder-decoder", extra=extra), "a model that hears")


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/speech_encoder_decoder/"
    "modeling_speech_encoder_decoder.py",
)
