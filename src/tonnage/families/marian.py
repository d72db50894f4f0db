"""Marian: BART without norms beside the blocks', fixed positions, and an embedding for each language or for both."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._seq2seq import Builder, Style
from tonnage.keys import Keys
from tonnage.tensors import Tensor

STYLE: Final = Style(table="fixed", modelled=True, counted=("once", "masked"), scales="code")


def _builder(k: Keys) -> tuple[Builder, int, bool]:
    """The builder, the decoder's vocabulary, and whether both stacks share theirs."""
    k.skip("add_bias_logits", "add_final_layer_norm", "classif_dropout", "normalize_before", "normalize_embedding")
    k.skip("static_position_embeddings", "gradient_checkpointing", "num_beams")
    made = Builder(k, STYLE)
    return made, k.optional("decoder_vocab_size") or made.V, k.want("share_encoder_decoder_embeddings", True)


def read(k: Keys) -> Model:
    """Build ``MarianForCausalLM``, the decoder alone."""
    made, V, _ = _builder(k)
    k.skip("encoder_layers", "encoder_ffn_dim", "encoder_attention_heads")
    table = "model.decoder.embed_tokens"
    head = Head(
        name="lm_head",
        D=made.D,
        V=V if made.tied else made.V,
        alias_of=f"{table}.weight" if made.tied else None,
    )
    layers = (made.decoder_layer(alone=True),) * k.need("decoder_layers")
    return made.model((made.stack("decoder", made.stem("decoder", table, V=V), layers),), head)


def read_both(k: Keys) -> Model:
    """Build ``MarianMTModel``."""
    made, V, shares = _builder(k)
    D, tied = made.D, made.tied
    shared, target = "model.shared.weight", made.V if shares else V
    own = "model.decoder.embed_tokens.weight"
    alias = shared if tied and shares else None
    extra: tuple[Tensor, ...] = ()
    if shares:
        extra = (Tensor("model.encoder.embed_tokens.weight", (("V", made.V), ("D", D)), "embedding", alias_of=alias),)
    head = Head(
        name="lm_head",
        D=D,
        V=target,
        alias_of=(shared if shares else own) if tied else None,
        extra=(Tensor("final_logits_bias", (("X", 1), ("V", target)), "buffer"),),
        offset=True,
    )
    # A tied table has the shared one's rows whatever decoder_vocab_size says.
    rows = made.V if alias else V
    encoder = made.stem("encoder", "model.shared" if shares else "model.encoder.embed_tokens")
    decoder = made.stem("decoder", "model.decoder.embed_tokens", V=rows, alias_of=alias)
    return made.model(
        (
            made.stack("encoder", encoder, (made.encoder_layer(),) * k.need("encoder_layers")),
            made.stack("decoder", decoder, (made.decoder_layer(alone=False),) * k.need("decoder_layers")),
        ),
        head,
        extra=extra,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/marian/modeling_marian.py",
    attributes={
        "d_model": "hidden_size",
        "encoder_attention_heads": "num_attention_heads",
        "encoder_layers": "num_hidden_layers",
    },
    classes={"seq2seq": read_both, "none": read_both},
)
