"""RoFormer: BERT that turns queries and keys by a fixed table (arXiv:2104.09864)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._encoder import attention, classifier, encoder, feed_forward, only_encoder, predictions, stem
from tonnage.families._pieces import counted, layer_norm
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``RoFormerForMaskedLM`` builds. ``RoFormerForCausalLM`` holds the same tensors."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 1536)
    E = k.optional("embedding_size") or D
    only_encoder(k)
    k.skip("rotary_value")
    act, tied = k.want("hidden_act", "gelu"), k.want("tie_word_embeddings", True)
    layer = Layer(
        sublayers=(
            Sublayer(
                block=counted("RoFormer's rotation", attention(k, D, N)),
                of_sum=layer_norm("attention.output.LayerNorm", D),
            ),
            Sublayer(block=feed_forward(k, D), of_sum=layer_norm("output.LayerNorm", D)),
        )
    )
    return encoder(
        k,
        "roformer",
        stem(k, "roformer", D, P=None, width=E, widen=None if E == D else "roformer.embeddings_project"),
        (layer,) * k.need("num_hidden_layers"),
        predictions("roformer", D, k.need("vocab_size"), act, tied=tied, E=E),
        positions=P,
        classifier=classifier(D, act=act),
        extra=(Tensor("roformer.encoder.embed_positions.weight", (("P", P), ("H", D // N)), "position"),),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/roformer/"
    "modeling_roformer.py",
)
