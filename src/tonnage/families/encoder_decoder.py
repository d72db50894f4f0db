"""An encoder and a decoder of any types that families read, such as two BERTs (arXiv:1907.12461).

The decoder's config says that it is one, and that it attends to an encoder; its layers then do.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.errors import UnsupportedError
from tonnage.families import Family
from tonnage.families._language import Text, language
from tonnage.families._paired import UNREAD, between, language_decoder
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``EncoderDecoderModel`` builds: a bare model, and a causal one with its head."""
    k.skip("tie_word_embeddings", *UNREAD)
    source = language(k, "encoder", "bert", key="encoder", less=UNREAD)
    if len(source.model.stacks) > 1:
        raise UnsupportedError(
            f"an encoder of the type {source.model.model_type} is not modelled inside of a pair",
            key="encoder.model_type",
            value=source.model.model_type,
            file=k.file,
        )
    return pair(k, source.model, source.model.width, language_decoder(k))


def pair(k: Keys, source: Model, width: int, target: Text) -> Model:
    """Both, and the matrix between an encoder of ``width`` and a decoder that expects its own width."""
    extra = between(k, width, target)
    encoder, decoder = source.decoder.but(name="encoder"), target.model.decoder.but(name="decoder")
    return target.model.but(
        model_type=str(k.config["model_type"]),
        stacks=(encoder, decoder),
        causal=False,
        eager_only=source.eager_only or target.model.eager_only,
        extra=(*source.extra, *target.model.extra, *extra),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/encoder_decoder/"
    "modeling_encoder_decoder.py",
)
