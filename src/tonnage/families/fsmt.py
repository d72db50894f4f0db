"""FSMT, fairseq's translators: BART with an embedding for each language and fixed positions."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._seq2seq import Builder, Style
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build ``FSMTForConditionalGeneration``."""
    k.skip("langs", "decoder", "num_beams", "add_bias_logits", "normalize_before", "output_past")
    padding = k.optional("pad_token_id", int, 1) or 0
    made = Builder(k, Style(act="relu", table="fixed", offset=padding + 1, alone=False))
    tied = k.want("tie_word_embeddings", False)
    targets = "model.decoder.embed_tokens"
    alias = f"{targets}.weight" if tied else None
    # What is tied has the rows of the target language.
    rows = made.V if tied else k.size("src_vocab_size", 42024)
    k.skip("src_vocab_size")
    return made.model(
        (
            made.stack(
                "encoder",
                made.stem("encoder", "model.encoder.embed_tokens", V=rows, alias_of=alias),
                (made.encoder_layer(),) * k.need("encoder_layers"),
            ),
            made.stack(
                "decoder", made.stem("decoder", targets), (made.decoder_layer(alone=False),) * k.need("decoder_layers")
            ),
        ),
        Head(name="model.decoder.output_projection", D=made.D, V=made.V, alias_of=alias),
    )


def bare(k: Keys) -> Model:
    """Build ``FSMTModel``, which has the output matrix, too."""
    model = read(k)
    assert model.head is not None
    return model.but(extra=(*model.extra, *model.head.weights()))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/fsmt/modeling_fsmt.py",
    classes={"none": bare},
    attributes={
        "d_model": "hidden_size",
        "encoder_attention_heads": "num_attention_heads",
        "encoder_layers": "num_hidden_layers",
        "vocab_size": "tgt_vocab_size",
    },
)
