"""Nomic's BERT: rotary positions and gated feed-forward blocks behind BERT's embedding (arXiv:2402.01613)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.feedforward import Gated
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._encoder import behind_pooler, classifier_dropout, encoder, predictions, rotary_layer, rotary_stem
from tonnage.families._pieces import layer_norm
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``NomicBertForMaskedLM`` builds."""
    base = "nomic_bert"
    D, P = k.need("hidden_size"), k.size("max_position_embeddings", 2048)
    act, tied = k.want("hidden_act", "silu"), k.want("tie_word_embeddings", True)
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act)
    layer = rotary_layer(k, D, mlp, bias=False, dropouts=(0.0, 0.0))
    head = predictions(base, D, k.need("vocab_size"), act, tied=tied)
    return encoder(
        k,
        base,
        # The layers are handed the numbers of the positions too.
        rotary_stem(k, base, D, k.size("type_vocab_size", 2), P=P, dropout=0.0).but(position_ids="rotary"),
        (layer,) * k.need("num_hidden_layers"),
        head.but(norm=layer_norm("cls.predictions.transform.layer_norm", D)),
        positions=P,
        table=False,
        path="layers",
        # Only the classifier has a pooler.
        classifier=behind_pooler(base, D, classifier_dropout(k)),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/nomic_bert/"
    "modeling_nomic_bert.py",
)
