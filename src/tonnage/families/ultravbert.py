"""UltraVBERT: UltraBERT that reads images too, from SigLIP's tower, with squares of patches as one."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._encoder import three_matrices
from tonnage.families._language import language
from tonnage.families._pieces import matrix
from tonnage.families._towers import tower
from tonnage.families.towers import seen
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``UltraVBertForMaskedLM`` builds."""
    text = language(k, "model.text_model", "ultrabert")
    width, tensors = seen(k, "model.vision_model", "siglip_vision_model", given={"vision_use_head": False})
    k.skip("initializer_cutoff_factor", "classifier_pooling")
    D, V = text.model.width, text.model.vocabulary
    together = ("X", width * k.size("pixel_shuffle_factor", 4) ** 2)
    joint = tower(
        "vision",
        "model.connector",
        matrix("modality_projection", together, ("D", D), "vision", bias=False),
        Norm("norm", (("D", D),), "rms-t5"),
    )
    table = f"{text.model.decoder.stem.name}.weight" if k.want("tie_word_embeddings", False) else None
    inner = text.config.get("prediction_head_size", 768)
    head = Head(name="lm_head", D=D, V=V, alias_of=table)
    return text.model.but(
        model_type="ultravbert",
        head=three_matrices(head, "projection_head", inner),
        classifier=Head(name="classifier", D=D, V=1, bias=True),
        extra=text.model.extra + tensors + joint,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/ultravbert/"
    "modeling_ultravbert.py",
)
