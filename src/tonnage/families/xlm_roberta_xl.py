"""XLM-R XL: RoBERTa with norms before attention and feed-forward block, none behind the embedding."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._encoder import classifier, encoder, lm_head, only_encoder, places, pooler, pre_norm, stem
from tonnage.families._pieces import layer_norm
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``XLMRobertaXLForMaskedLM`` builds."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 514)
    only_encoder(k)
    k.refuse("position_embedding_type", "absolute")
    return encoder(
        k,
        "roberta",
        stem(k, "roberta", D, P=P, types=1, norm=False, after_padding=True),
        (pre_norm(k, D, N, "attention.self_attn_layer_norm", "LayerNorm", drops=False),) * k.need("num_hidden_layers"),
        lm_head("roberta", D, k.need("vocab_size"), tied=k.want("tie_word_embeddings", True)),
        positions=places(k, P),
        norm=layer_norm("roberta.encoder.LayerNorm", D),
        pooler=pooler("roberta", D),
        classifier=classifier(D),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/xlm_roberta_xl/"
    "modeling_xlm_roberta_xl.py",
)
