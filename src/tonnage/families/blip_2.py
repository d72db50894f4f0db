"""BLIP-2 and InstructBLIP: queries over a tower's patches, before a language model with its head (arXiv:2301.12597)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import language, unpassed
from tonnage.families._pieces import matrix
from tonnage.families._qformer import QFORMER, qformer
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TOWERS: Final = {
    "blip-2": "blip_2_vision_model",
    "instructblip": "instructblip_vision_model",
    "instructblipvideo": "instructblipvideo_vision_model",
}


def read(k: Keys) -> Model:
    """Build ``Blip2ForConditionalGeneration`` or ``InstructBlipForConditionalGeneration``."""
    kind = str(k.config["model_type"])
    # The language model ties its head as its own config says.
    model = language(k, "language_model", "opt", whole=True).model
    width, tensors = seen(k, "vision_model", TOWERS[kind], fixed=True)
    reads = None if kind == "blip-2" else True
    wide, queries = read_inner(
        k, "qformer_config", QFORMER, lambda inner: qformer(inner, "qformer", width, reads=reads), less=("model_type",)
    )
    learned = Tensor("query_tokens", (("B", 1), ("T", k.size("num_query_tokens", 32)), ("D", wide)), "vision")
    projection = matrix("language_projection", ("X", wide), ("D", model.width), "vision")
    k.skip("image_text_hidden_size", "use_decoder_only_language_model", "tie_word_embeddings")
    model = model.but(model_type=kind, extra=(*model.extra, learned, *tensors, *queries, *projection.weights()))
    return unpassed(model, "a model that cannot do without an image")


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/blip_2/modeling_blip_2.py",
    attributes={"image_token_id": "image_token_index", "video_token_id": "video_token_index"},
)
