"""Idefics 3 and SmolVLM: neighbouring patches as one, and one matrix to any language model (arXiv:2408.12637)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families._pieces import matrix
from tonnage.families._towers import tower
from tonnage.families.towers import seen
from tonnage.keys import Keys

UNREAD: Final = (
    "is_llama_config",
    "neftune_noise_alpha",
    "perceiver_config",
    "pixel_shuffle_factor",
    "qk_layer_norms",
    "transformers.js_config",
    "use_resampler",
)
"""Keys of released text configs that no class reads."""


def read(k: Keys) -> Model:
    """Build ``Idefics3ForConditionalGeneration`` or ``SmolVLMForConditionalGeneration``."""
    text = language(k, "model.text_model", "llama", less=UNREAD)
    kind = "smolvlm_vision" if k.config["model_type"] == "smolvlm" else "idefics3_vision"
    width, tensors = seen(k, "model.vision_model", kind, fixed=True)
    together = ("X", width * k.size("scale_factor", 2) ** 2)
    connector = tower(
        "vision",
        "model.connector",
        matrix("modality_projection.proj", together, ("D", text.model.width), "vision", bias=False),
    )
    k.skip("image_seq_len", "vocab_size", "transformers.js_config")
    return headed(text.model, k.want("tie_word_embeddings", False), extra=tensors + connector, tells=True)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/idefics3/"
    "modeling_idefics3.py",
)
