"""MPNet: BERT with one table of relative positions for all layers (arXiv:2004.09297)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.relative import RelativeBias
from tonnage.families import Family
from tonnage.families._encoder import attention, classifier, encoder, feed_forward, lm_head, places, pooler, stem
from tonnage.families._pieces import layer_norm
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``MPNetForMaskedLM`` builds."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    buckets = k.size("relative_attention_num_buckets", 32)
    name = "mpnet.encoder.relative_attention_bias"
    own = attention(k, D, N)
    token = own.but(q="attn.q", k="attn.k", v="attn.v", o="attn.o", eager="biased", o_apart=False)
    dropout = k.want("hidden_dropout_prob", 0.1)
    layer = Layer(
        sublayers=(
            Sublayer(block=token, of_sum=layer_norm("attention.LayerNorm", D), dropout=dropout, rebinds=True),
            Sublayer(block=feed_forward(k, D), of_sum=layer_norm("output.LayerNorm", D), dropout=dropout, named=True),
        )
    )
    return encoder(
        k,
        "mpnet",
        stem(k, "mpnet", D, P=P, types=None, type_ids=False, after_padding=True).but(
            relative=RelativeBias(name, buckets, N)
        ),
        (layer,) * k.need("num_hidden_layers"),
        lm_head("mpnet", D, k.need("vocab_size"), tied=k.want("tie_word_embeddings", True)),
        positions=places(k, P),
        pooler=pooler("mpnet", D),
        classifier=classifier(D, drops=dropout),
        eager_only=True,
        extra=(Tensor(f"{name}.weight", (("X", buckets), ("N", N)), "position"),),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mpnet/modeling_mpnet.py",
)
