"""EXAONE 4.5: EXAONE 4 behind Qwen2.5-VL's tower with shared keys and values."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families.towers import seen
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Exaone4_5_ForConditionalGeneration`` builds."""
    # Its first release gave the language model a type of its own.
    k.skip("vocab_size")
    text = language(k, "model.language_model", "exaone4", fixed=True)
    _, tensors = seen(k, "model.visual", "exaone4_5_vision", fixed=True)
    return headed(text.model, k.want("tie_word_embeddings", False), extra=tensors).but(model_type="exaone4_5")


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/exaone4_5/"
    "modeling_exaone4_5.py",
)
