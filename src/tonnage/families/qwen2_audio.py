"""Qwen2-Audio: Qwen2 behind Whisper's encoder (arXiv:2407.10759)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families._pieces import matrix
from tonnage.families._towers import tower
from tonnage.families.towers import seen
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Qwen2AudioForConditionalGeneration`` builds."""
    text = language(k, "model.language_model", "qwen2").model
    width, tensors = seen(k, "model.audio_tower", "qwen2_audio_encoder", key="audio_config")
    projector = matrix("linear", ("X", width), ("D", text.width), "audio")
    # The class ties nothing, whatever the config says.
    k.skip("tie_word_embeddings", "ignore_index", "vocab_size")
    tensors += tower("audio", "model.multi_modal_projector", projector)
    return headed(text, tied=False, extra=tensors).but(model_type="qwen2_audio")


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen2_audio/"
    "modeling_qwen2_audio.py",
    attributes={"audio_token_id": "audio_token_index"},
)
