"""BERT: an encoder with norms behind each sum, token types beside positions, and a head that transforms first.

ERNIE is the same, and may add a table of tasks.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Table
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._encoder import behind_pooler, classifier_dropout, encoder, pooler, post_norm, predictions, stem
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``BertForMaskedLM`` builds. ``BertLMHeadModel`` holds the same tensors."""
    base = str(k.config["model_type"])
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    k.skip("classifier_dropout_prob")
    k.refuse("position_embedding_type", "absolute")
    k.skip("gradient_checkpointing", "directionality", "pooler_fc_size", "pooler_num_attention_heads")
    k.skip("pooler_num_fc_layers", "pooler_size_per_head", "pooler_type")
    act, tied = k.want("hidden_act", "gelu"), k.want("tie_word_embeddings", True)
    tasks: tuple[Table, ...] = ()
    if base == "ernie":
        rows = k.size("task_type_vocab_size", 3)
        if k.want("use_task_id", False):
            tasks = (Table(name=f"{base}.embeddings.task_type_embeddings", rows=rows, width=D, buffered=True),)
    return encoder(
        k,
        base,
        stem(k, base, D, P=P, extra=tasks),
        (post_norm(k, D, N),) * k.need("num_hidden_layers"),
        predictions(base, D, k.need("vocab_size"), act, tied=tied),
        positions=P,
        pooler=pooler(base, D),
        classifier=behind_pooler(base, D, classifier_dropout(k)),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/bert/modeling_bert.py",
)
