"""ELECTRA: BERT with an embedding of its own width, and a generator's head (arXiv:2003.10555)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._encoder import classifier, encoder, post_norm, stem
from tonnage.families._pieces import layer_norm, matrix
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``ElectraForMaskedLM`` builds. ``ElectraForCausalLM`` holds the same tensors."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    E, V = k.size("embedding_size", 128), k.need("vocab_size")
    k.skip("classifier_dropout_prob")
    k.refuse("position_embedding_type", "absolute")
    k.skip("summary_last_dropout")
    tied, path = k.want("tie_word_embeddings", True), "generator_predictions"
    return encoder(
        k,
        "electra",
        stem(k, "electra", D, P=P, width=E, widen=None if E == D else "electra.embeddings_project"),
        (post_norm(k, D, N),) * k.need("num_hidden_layers"),
        Head(
            name="generator_lm_head",
            D=E,
            V=V,
            bias=True,
            alias_of="electra.embeddings.word_embeddings.weight" if tied else None,
            dense=matrix(f"{path}.dense", ("D", D), ("D", E), "head"),
            norm=layer_norm(f"{path}.LayerNorm", E),
        ),
        positions=P,
        classifier=classifier(D, act="gelu"),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/electra/modeling_electra.py",
)
