"""BERT for generation: BERT without token types, and a head that is the embedding alone (arXiv:1907.12461)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._encoder import encoder, post_norm, stem
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``BertGenerationDecoder`` builds."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    V = k.need("vocab_size")
    k.skip("classifier_dropout_prob")
    k.refuse("position_embedding_type", "absolute")
    tied = k.want("tie_word_embeddings", True)
    head = Head(
        name="lm_head.decoder",
        D=D,
        V=V,
        bias=True,
        alias_of="bert.embeddings.word_embeddings.weight" if tied else None,
        bias_alias_of="lm_head.bias" if tied else None,
        extra=(Tensor("lm_head.bias", (("V", V),), "head"),),
    )
    return encoder(
        k,
        "bert",
        stem(k, "bert", D, P=P, types=None, type_ids=False),
        (post_norm(k, D, N),) * k.need("num_hidden_layers"),
        head,
        positions=P,
        causal=True,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/bert_generation/"
    "modeling_bert_generation.py",
)
