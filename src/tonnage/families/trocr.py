"""TrOCR: a decoder of BART's kind that reads from an encoder of images (arXiv:2109.10282)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.model import Layer, Model
from tonnage.arch.parts import KeyValues
from tonnage.families import Family
from tonnage.families._pieces import counted, matrix
from tonnage.families._seq2seq import Builder, Style
from tonnage.keys import Keys
from tonnage.tensors import Axis


def read(k: Keys) -> Model:
    """Build ``TrOCRForCausalLM``: the decoder, whose cross attention may be fed from another width."""
    learned = k.want("use_learned_position_embeddings", True)
    padding = k.optional("pad_token_id", int, 1) or 0
    made = Builder(
        k,
        Style(
            offset=2 if learned else padding + 1,
            embedding_norm=k.want("layernorm_embedding", True),
            table="learned" if learned else "none",
            head="output_projection",
            rows=512,
        ),
    )
    k.skip("is_decoder", "num_attention_heads")
    table = "model.decoder.embed_tokens"
    head = Head(name="output_projection", D=made.D, V=made.V, alias_of=f"{table}.weight" if made.tied else None)
    layers = (_layer(k, made),) * k.need("decoder_layers")
    return made.model((made.stack("decoder", made.stem("decoder", table), layers),), head)


def _layer(k: Keys, made: Builder) -> Layer:
    layer = made.decoder_layer(alone=True)
    wide = k.optional("cross_attention_hidden_size") or made.D
    D: Axis = ("D", made.D)
    N = made.heads("decoder")
    cross = counted(
        "a decoder with cross attention that is not used",
        *(
            matrix(f"encoder_attn.{name}", ("X", wide) if name in ("k_proj", "v_proj") else D, D, "attention")
            for name in ("q_proj", "k_proj", "v_proj", "out_proj")
        ),
        *((KeyValues(K=N, H=made.D // N, cross=True),) if k.want("add_cross_attention", False) else ()),
    )
    own, other, last = layer.sublayers
    return layer.but(sublayers=(own, other.but(block=cross), last))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/trocr/modeling_trocr.py",
    attributes={
        "d_model": "hidden_size",
        "decoder_attention_heads": "num_attention_heads",
        "decoder_layers": "num_hidden_layers",
    },
)
