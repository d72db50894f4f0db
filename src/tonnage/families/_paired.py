"""A decoder of any type that attends to an encoder of any type, and what stands between them."""

from __future__ import annotations

from typing import Final

from tonnage.errors import ConfigError
from tonnage.families._language import Text, language
from tonnage.families._pieces import matrix
from tonnage.keys import Keys
from tonnage.tensors import Tensor

UNREAD: Final = ("tie_encoder_decoder",)
"""Keys of released configs that no class reads any more."""


def language_decoder(k: Keys) -> Text:
    """The decoder with its head, which has to attend to an encoder."""
    given = {"is_decoder": True, "add_cross_attention": True}
    target = language(k, "decoder", "bert", key="decoder", whole=True, given=given, less=UNREAD)
    kept = [
        t.name
        for layer, _ in target.model.decoder.distinct()
        for sub in layer.sublayers
        if hasattr(sub.block, "state")
        for t in sub.block.state(1, 1)
    ]
    if len(target.model.stacks) > 1 or not any(name.startswith("encoder ") for name in kept):
        raise ConfigError(
            f"the decoder, a {target.model.model_type}, does not attend to an encoder",
            key="decoder.add_cross_attention",
            value=target.config.get("add_cross_attention"),
            file=k.file,
            hint="is_decoder and add_cross_attention of the decoder have to be true",
        )
    return target


def between(k: Keys, width: int, target: Text, *, behind: int | None = None) -> tuple[Tensor, ...]:
    """The matrix between an encoder of ``width`` and a decoder that expects its own width.

    Args:
        k: the config.
        width: of the encoder.
        target: the decoder.
        behind: the width of what the encoder hands on, where it is another one.
    """
    seen, D = target.config.get("cross_attention_hidden_size"), target.model.width
    if seen not in (None, width):
        raise ConfigError(
            f"decoder.cross_attention_hidden_size = {seen} is not the encoder's {width}",
            key="decoder.cross_attention_hidden_size",
            value=seen,
            file=k.file,
        )
    if seen is not None or (behind or width) == D:
        return ()
    return tuple(matrix("enc_to_dec_proj", ("X", width), ("D", D), "attention").weights())
