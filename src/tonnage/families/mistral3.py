"""Mistral 3 and LightOnOCR: a tower whose neighbouring patches are merged by a matrix, before any language model."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families._merged import merged_tower
from tonnage.keys import Keys

MISTRAL: Final[dict[str, Any]] = {
    "head_dim": 128,
    "hidden_size": 5120,
    "intermediate_size": 32768,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "sliding_window": None,
    "vocab_size": 131072,
}
QWEN: Final[dict[str, Any]] = {
    "head_dim": 128,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "sliding_window": None,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
}
PIXTRAL: Final[dict[str, Any]] = {"patch_size": 14, "image_size": 1540}


def read(k: Keys) -> Model:
    """Build ``Mistral3ForConditionalGeneration`` or ``LightOnOcrForConditionalGeneration``."""
    lighton = k.config["model_type"] == "lighton_ocr"
    kind, given = ("qwen3", QWEN) if lighton else ("mistral", MISTRAL)
    text = language(k, "model.language_model", kind, given=given)
    names = {"path": "model.vision_encoder", "projector": "model.vision_projection"} if lighton else {}
    merger = merged_tower(k, text.model.width, given=PIXTRAL, plain=lighton, **names)
    model = headed(text.model, k.want("tie_word_embeddings", True), extra=merger.tensors, tells=True)
    return model if lighton else model.but(eye=merger.eye)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mistral3/"
    "modeling_mistral3.py",
    attributes={"image_token_id": "image_token_index"},
)
