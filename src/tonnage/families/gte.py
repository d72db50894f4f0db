"""GTE's encoder: BERT's embedding without positions, rotary ones in the layers, gated blocks (arXiv:2407.19669)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.feedforward import Gated
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._encoder import encoder, pooler, rotary_layer, rotary_stem
from tonnage.families._pieces import layer_norm, matrix
from tonnage.keys import Keys

BASE: Final = "gte"


def read(k: Keys) -> Model:
    """Build the model that ``GteForMaskedLM`` builds."""
    D, V = k.need("hidden_size"), k.need("vocab_size")
    table, tied = f"{BASE}.embeddings", k.want("tie_word_embeddings", True)
    dropouts = (0.0, 0.1)
    mlp = Gated(
        name="mlp",
        D=D,
        F=k.need("intermediate_size"),
        act=k.want("hidden_act", "gelu"),
        down_bias=True,
        inner_dropout=k.want("hidden_dropout_prob", dropouts[1]),
    )
    layer = rotary_layer(k, D, mlp, bias=True, dropouts=dropouts)
    head = Head(
        name="lm_head.decoder",
        D=D,
        V=V,
        bias=True,
        alias_of=f"{table}.word_embeddings.weight" if tied else None,
        dense=matrix("lm_head.dense", ("D", D), ("D", D), "head"),
        norm=layer_norm("lm_head.layer_norm", D),
    )
    return encoder(
        k,
        BASE,
        rotary_stem(k, BASE, D, k.want("type_vocab_size", 1), P=None, dropout=dropouts[1]),
        (layer,) * k.need("num_hidden_layers"),
        head,
        positions=k.size("max_position_embeddings", 8192),
        table=False,
        path="layers",
        causal=False,
        # Only the classifier has a pooler.
        classifier=Head(name="classifier", D=D, V=1, bias=True, extra=pooler(BASE, D)),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gte/modeling_gte.py",
)
