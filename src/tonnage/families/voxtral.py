"""Voxtral: Llama behind Whisper's encoder, four frames of which are projected together (arXiv:2507.13264)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families._pieces import matrix
from tonnage.families._towers import tower
from tonnage.families.towers import seen
from tonnage.keys import Keys

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 131072,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 30,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "head_dim": 128,
}


def read(k: Keys) -> Model:
    """Build the model that ``VoxtralForConditionalGeneration`` builds."""
    text = language(k, "model.language_model", "llama", always=TEXT).model
    _, tensors = seen(k, "model.audio_tower", "voxtral_encoder", key="audio_config")
    D, joined = text.width, inner_width(k)
    # The class ties nothing, whatever the config says.
    k.skip("projector_hidden_act", "tie_word_embeddings", "hidden_size", "vocab_size")
    tensors += tower(
        "audio",
        "model.multi_modal_projector",
        matrix("linear_1", ("X", joined), ("D", D), "audio", bias=False),
        matrix("linear_2", ("D", D), ("D", D), "audio", bias=False),
    )
    return headed(text, tied=False, extra=tensors).but(model_type="voxtral")


def inner_width(k: Keys) -> int:
    """``intermediate_size`` of the encoder, which the projector takes for the width of the frames that it joins."""
    inner = k.inner("audio_config")
    if inner is None:
        return 5120
    inner.aliases = {"intermediate_size": "encoder_ffn_dim"}
    return inner.size("intermediate_size", 5120)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/voxtral/"
    "modeling_voxtral.py",
)
