"""ModernVBERT: ModernBERT that reads images too, squares of patches of SigLIP's tower as one (arXiv:2510.01149)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._language import language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import tower
from tonnage.families.towers import seen
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``ModernVBertForMaskedLM`` builds; the text's config tells which matrices have a bias."""
    text = language(k, "model.text_model", "modernbert")
    width, tensors = seen(k, "model.vision_model", "siglip_vision_model")
    k.skip("initializer_cutoff_factor", "classifier_pooling", "classifier_bias")
    D, V, own = text.model.width, text.model.vocabulary, text.config
    together = ("X", width * k.size("pixel_shuffle_factor", 4) ** 2)
    joint = tower("vision", "model.connector", matrix("modality_projection", together, ("D", D), "vision", bias=False))
    table = f"{text.model.decoder.stem.name}.weight" if k.want("tie_word_embeddings", False) else None

    def before(path: str, head: Head) -> Head:
        dense = matrix(f"{path}.dense", ("D", D), ("D", D), "head", bias=bool(own.get("classifier_bias", False)))
        norm = layer_norm(f"{path}.norm", D, bias=bool(own.get("norm_bias", False)))
        return head.but(dense=dense, norm=norm, act=str(own.get("classifier_activation", "gelu")))

    return text.model.but(
        model_type="modernvbert",
        head=before(
            "projection_head",
            Head(name="lm_head", D=D, V=V, bias=bool(own.get("decoder_bias", True)), alias_of=table),
        ),
        classifier=before("head", Head(name="classifier", D=D, V=1, bias=True)),
        extra=text.model.extra + tensors + joint,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/modernvbert/"
    "modeling_modernvbert.py",
)
