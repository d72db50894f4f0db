"""Megatron-BERT: BERT with norms before attention and feed-forward block, none behind the embedding."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._encoder import encoder, only_encoder, pooler, pre_norm, predictions, stem, without_pass
from tonnage.families._pieces import layer_norm
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``MegatronBertForMaskedLM`` builds."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    only_encoder(k)
    k.refuse("position_embedding_type", "absolute")
    k.skip("gradient_checkpointing")
    act, tied = k.want("hidden_act", "gelu"), k.want("tie_word_embeddings", True)
    return encoder(
        k,
        "bert",
        stem(k, "bert", D, P=P, norm=False, type_ids=False),
        (without_pass(pre_norm(k, D, N, "attention.ln", "ln"), "Megatron-BERT"),) * k.need("num_hidden_layers"),
        predictions("bert", D, k.need("vocab_size"), act, tied=tied),
        positions=P,
        eager_only=True,
        norm=layer_norm("bert.encoder.ln", D),
        pooler=pooler("bert", D),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/megatron_bert/"
    "modeling_megatron_bert.py",
)
