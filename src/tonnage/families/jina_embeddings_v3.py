"""Jina's embeddings v3: XLM-RoBERTa with rotary positions (arXiv:2409.10173). Its adapters stand apart from it."""

from __future__ import annotations

from typing import Final

from tonnage.arch.feedforward import Plain
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._encoder import classifier, encoder, lm_head, pooler, rotary_layer, rotary_stem
from tonnage.keys import Keys

BASE: Final = "roberta"


def read(k: Keys) -> Model:
    """Build the model that ``JinaEmbeddingsV3ForMaskedLM`` builds."""
    D, P = k.need("hidden_size"), k.size("max_position_embeddings", 8194)
    mlp = Plain(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "gelu"))
    layer = rotary_layer(k, D, mlp, bias=True, dropouts=(0.1, 0.1))
    tied = k.want("tie_word_embeddings", True)
    return encoder(
        k,
        BASE,
        rotary_stem(k, BASE, D, k.size("type_vocab_size", 1), P=P, dropout=0.1),
        (layer,) * k.need("num_hidden_layers"),
        lm_head(BASE, D, k.need("vocab_size"), tied=tied),
        positions=P,
        table=False,
        path="layers",
        causal=False,
        pooler=pooler(BASE, D),
        classifier=classifier(D),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/jina_embeddings_v3/"
    "modeling_jina_embeddings_v3.py",
)
