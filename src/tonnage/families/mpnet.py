"""MPNet: BERT with one table of relative positions for all layers (arXiv:2004.09297)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._encoder import attention, classifier, encoder, feed_forward, lm_head, places, pooler, stem
from tonnage.families._pieces import counted, layer_norm
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``MPNetForMaskedLM`` builds."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    buckets = k.size("relative_attention_num_buckets", 32)
    token = attention(k, D, N, q="attn.q", k="attn.k", v="attn.v", o="attn.o")
    layer = Layer(
        sublayers=(
            Sublayer(block=counted("MPNet's attention", token), of_sum=layer_norm("attention.LayerNorm", D)),
            Sublayer(block=feed_forward(k, D), of_sum=layer_norm("output.LayerNorm", D)),
        )
    )
    return encoder(
        k,
        "mpnet",
        stem(k, "mpnet", D, P=P, types=None, type_ids=False, after_padding=True),
        (layer,) * k.need("num_hidden_layers"),
        lm_head("mpnet", D, k.need("vocab_size"), tied=k.want("tie_word_embeddings", True)),
        positions=places(k, P),
        pooler=pooler("mpnet", D),
        classifier=classifier(D),
        extra=(Tensor("mpnet.encoder.relative_attention_bias.weight", (("X", buckets), ("N", N)), "position"),),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mpnet/modeling_mpnet.py",
)
