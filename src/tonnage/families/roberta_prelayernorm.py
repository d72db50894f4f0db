"""RoBERTa with norms before attention and feed-forward block, and one behind the last layer."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._encoder import classifier, encoder, lm_head, only_encoder, places, pooler, pre_norm, stem
from tonnage.families._pieces import layer_norm
from tonnage.keys import Keys

BASE: Final = "roberta_prelayernorm"


def read(k: Keys) -> Model:
    """Build the model that ``RobertaPreLayerNormForMaskedLM`` builds."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    only_encoder(k)
    k.skip("gradient_checkpointing")
    return encoder(
        k,
        BASE,
        stem(k, BASE, D, P=P, after_padding=True),
        (pre_norm(k, D, N, "attention.LayerNorm", "intermediate.LayerNorm"),) * k.need("num_hidden_layers"),
        lm_head(BASE, D, k.need("vocab_size"), tied=k.want("tie_word_embeddings", True)),
        positions=places(k, P),
        norm=layer_norm(f"{BASE}.LayerNorm", D),
        pooler=pooler(BASE, D),
        classifier=classifier(D),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/roberta_prelayernorm/"
    "modeling_roberta_prelayernorm.py",
)
