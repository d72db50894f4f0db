"""PaliGemma: Gemma, which sees image and prompt whole, behind SigLIP's tower and one matrix (arXiv:2407.07726)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.arch.sight.joined import Prefixed
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families._pieces import matrix
from tonnage.families.towers import sighted
from tonnage.keys import Keys

TEXT: Final[dict[str, Any]] = {
    "hidden_size": 2048,
    "num_hidden_layers": 18,
    "intermediate_size": 16384,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "vocab_size": 257152,
}
VISION: Final[dict[str, Any]] = {
    "intermediate_size": 4096,
    "hidden_size": 1152,
    "patch_size": 14,
    "image_size": 224,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "vision_use_head": False,
}


def read(k: Keys) -> Model:
    """Build ``PaliGemmaForConditionalGeneration``."""
    overruled = ("use_bidirectional_attention", "num_image_tokens")
    text = language(k, "model.language_model", "gemma", given=TEXT, less=overruled)
    sight = sighted(k, "model.vision_tower", "siglip_vision_model", given=VISION)
    D = k.size("projection_dim", 2048)
    projector = matrix("model.multi_modal_projector.linear", ("X", sight.width), ("D", D), "vision")
    k.skip("vocab_size", "hidden_size", "num_hidden_layers", "num_image_tokens")
    tensors = (*sight.tensors, *projector.weights())
    model = headed(text.model, k.want("tie_word_embeddings", True), extra=tensors)
    return model.but(eye=None if sight.tower is None else Prefixed(tower=sight.tower, projector=projector))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/paligemma/"
    "modeling_paligemma.py",
    attributes={"image_token_id": "image_token_index"},
)
