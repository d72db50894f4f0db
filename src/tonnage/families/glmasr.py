"""GLM-ASR: Llama behind an encoder of sound whose frames are projected in fours."""

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
    "vocab_size": 59264,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
}


def read(k: Keys) -> Model:
    """Build the model that ``GlmAsrForConditionalGeneration`` builds."""
    text = language(k, "model.language_model", "llama", always=TEXT).model
    _, tensors = seen(k, "model.audio_tower", "glmasr_encoder", key="audio_config")
    inner = k.inner("audio_config")
    # The projector takes the encoder's inner width for the width of the frames that it joins.
    joined, D = 5120 if inner is None else inner.size("intermediate_size", 5120), text.width
    k.skip("projector_hidden_act")
    tensors += tower(
        "audio",
        "model.multi_modal_projector",
        matrix("linear_1", ("X", joined), ("X", 2 * D), "audio"),
        matrix("linear_2", ("X", 2 * D), ("D", D), "audio"),
    )
    return headed(text, k.want("tie_word_embeddings", True), extra=tensors).but(model_type="glmasr")


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/glmasr/modeling_glmasr.py",
)
