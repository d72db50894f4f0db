"""Qwen3-ASR: Qwen3 behind an encoder of sound."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families._pieces import matrix
from tonnage.families._towers import tower
from tonnage.families.towers import seen
from tonnage.families.towers.whisper import D_MODEL
from tonnage.keys import Keys

TEXT: Final[dict[str, Any]] = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 65536,
}


def read(k: Keys) -> Model:
    """Build the model that ``Qwen3ASRForConditionalGeneration`` builds."""
    text = language(k, "model.language_model", "qwen3", given=TEXT).model
    out, tensors = seen(k, "model.audio_tower", "qwen3_asr_encoder", key="audio_config")
    inner = k.inner("audio_config") or Keys({})
    inner.aliases = D_MODEL
    width = inner.size("hidden_size", 1024)
    k.skip("token_classification_bias")
    tensors += tower(
        "audio",
        "model.multi_modal_projector",
        matrix("linear_1", ("X", width), ("X", width), "audio"),
        matrix("linear_2", ("X", width), ("D", out), "audio"),
    )
    return headed(text, k.want("tie_word_embeddings", True), extra=tensors).but(model_type="qwen3_asr")


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3_asr/"
    "modeling_qwen3_asr.py",
)
