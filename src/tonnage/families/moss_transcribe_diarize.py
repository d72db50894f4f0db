"""MOSS-Transcribe-Diarize: Qwen3 behind Whisper's encoder, whose frames are merged before they are projected."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import tower
from tonnage.families.towers import seen
from tonnage.keys import Keys

TEXT: Final[dict[str, Any]] = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}


def read(k: Keys) -> Model:
    """Build the model that ``MossTranscribeDiarizeForConditionalGeneration`` builds."""
    k.skip("audio_chunk_size", "projector_hidden_act")
    text = language(k, "model.language_model", "qwen3", given=TEXT).model
    width, tensors = seen(k, "model.audio_tower", "moss_transcribe_diarize_audio", key="audio_config", fixed=True)
    D, bias, merged = text.width, k.want("projector_bias", True), k.size("audio_merge_size", 4)
    tensors += tower(
        "audio",
        "model.multi_modal_projector",
        matrix("linear_1", ("X", width * merged), ("D", D), "audio", bias=bias),
        matrix("linear_2", ("D", D), ("D", D), "audio", bias=bias),
        layer_norm("norm", D),
    )
    tied = k.want("tie_word_embeddings", True)
    return headed(text, tied, extra=tensors).but(model_type="moss_transcribe_diarize")


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/moss_transcribe_diarize/"
    "modeling_moss_transcribe_diarize.py",
)
