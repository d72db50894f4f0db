"""HyperCLOVA X Think and Omni: HyperCLOVA X behind Qwen2.5-VL's tower and one matrix."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families._pieces import matrix
from tonnage.families.towers import seen
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``HyperCLOVAXVisionV2ForConditionalGeneration`` builds."""
    text = language(k, "model.language_model", "hyperclovax").model
    # Releases name the type of the whole of Qwen2.5-VL.
    width, tensors = seen(k, "model.vision_model", "qwen2_5_vl_vision", fixed=True)
    projector = matrix("model.projector", ("X", width), ("D", text.width), "vision")
    tied = k.want("tie_word_embeddings", True)
    return headed(text, tied, extra=(*tensors, *projector.weights())).but(model_type="hyperclovax_vision_v2")


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/hyperclovax_vision_v2/"
    "modeling_hyperclovax_vision_v2.py",
)
