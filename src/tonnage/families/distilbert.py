"""DistilBERT: BERT without token types and pooler, under names of its own (arXiv:1910.01108)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head
from tonnage.arch.feedforward import Plain
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._encoder import encoder, stem
from tonnage.families._pieces import layer_norm, matrix
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``DistilBertForMaskedLM`` builds."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    V, dropout = k.need("vocab_size"), k.want("dropout", 0.1)
    k.skip("qa_dropout", "sinusoidal_pos_embds", "tie_weights_")
    act, tied = k.want("activation", "gelu"), k.want("tie_word_embeddings", True)
    token = GroupedQuery(
        name="attention",
        D=D,
        N=N,
        K=N,
        H=k.divides("dim", "n_heads", D, N),
        q="q_lin",
        k="k_lin",
        v="v_lin",
        o="out_lin",
        bias=True,
        o_bias=True,
        rotary=None,
        causal=False,
        dropout=k.want("attention_dropout", 0.1),
        eager="uncast",
    )
    mlp = Plain(name="ffn", D=D, F=k.size("hidden_dim", 3072), act=act, up="lin1", down="lin2", dropout=dropout)
    layer = Layer(
        sublayers=(
            Sublayer(block=token, of_sum=layer_norm("sa_layer_norm", D), named=True),
            Sublayer(block=mlp, of_sum=layer_norm("output_layer_norm", D), named=True),
        )
    )
    table = "distilbert.embeddings.word_embeddings.weight"
    return encoder(
        k,
        "distilbert",
        stem(k, "distilbert", D, P=P, types=None, type_ids=False, dropout=dropout),
        (layer,) * k.need("num_hidden_layers"),
        Head(
            name="vocab_projector",
            D=D,
            V=V,
            bias=True,
            alias_of=table if tied else None,
            dense=matrix("vocab_transform", ("D", D), ("D", D), "head"),
            act=act,
            norm=layer_norm("vocab_layer_norm", D),
        ),
        positions=P,
        path="transformer.layer",
        classifier=Head(
            name="classifier",
            D=D,
            V=1,
            bias=True,
            dense=matrix("pre_classifier", ("D", D), ("D", D), "head"),
            act="relu",
            pooled="first",
            drops=k.want("seq_classif_dropout", 0.2),
        ),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/distilbert/"
    "modeling_distilbert.py",
    attributes={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
)
