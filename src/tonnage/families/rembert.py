"""RemBERT: BERT with a narrow embedding and a wide head of its own (arXiv:2010.12821)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._encoder import encoder, pooler, post_norm, stem, without_pass
from tonnage.families._pieces import layer_norm, matrix
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``RemBertForMaskedLM`` builds. Its head shares nothing with the embedding."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    E, wide, V = k.size("input_embedding_size", 256), k.size("output_embedding_size", 1664), k.need("vocab_size")
    k.skip("classifier_dropout_prob")
    k.refuse("tie_word_embeddings")
    act = k.want("hidden_act", "gelu")
    path, widen = "cls.predictions", "rembert.encoder.embedding_hidden_mapping_in"
    return encoder(
        k,
        "rembert",
        stem(k, "rembert", D, P=P, width=E, widen=widen, type_ids=False),
        (without_pass(post_norm(k, D, N), "RemBERT"),) * k.need("num_hidden_layers"),
        Head(
            name=f"{path}.decoder",
            D=wide,
            V=V,
            bias=True,
            dense=matrix(f"{path}.dense", ("D", D), ("D", wide), "head"),
            act=act,
            norm=layer_norm(f"{path}.LayerNorm", wide),
        ),
        positions=P,
        pooler=pooler("rembert", D),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/rembert/modeling_rembert.py",
)
