"""RoBERTa: BERT whose positions are counted from behind the padding token, with a head of its own.

XLM-R, CamemBERT and data2vec's text model are the same.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._encoder import classifier, classifier_dropout, encoder, lm_head, places, pooler, post_norm, stem
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``RobertaForMaskedLM`` builds. ``RobertaForCausalLM`` holds the same tensors."""
    base = "data2vec_text" if k.config["model_type"] == "data2vec-text" else "roberta"
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    k.skip("classifier_dropout_prob")
    k.refuse("position_embedding_type", "absolute")
    k.skip("gradient_checkpointing")
    return encoder(
        k,
        base,
        stem(k, base, D, P=P, after_padding=True),
        (post_norm(k, D, N),) * k.need("num_hidden_layers"),
        lm_head(base, D, k.need("vocab_size"), tied=k.want("tie_word_embeddings", True)),
        positions=places(k, P),
        pooler=pooler(base, D),
        classifier=classifier(D, drops=classifier_dropout(k)),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/roberta/modeling_roberta.py",
)
