"""Nomic's BERT: rotary positions and gated feed-forward blocks behind BERT's embedding (arXiv:2402.01613)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import rotary_width
from tonnage.families._encoder import encoder, pooler, predictions, stem
from tonnage.families._pieces import counted, layer_norm
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``NomicBertForMaskedLM`` builds."""
    base = "nomic_bert"
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 2048)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    act, tied = k.want("hidden_act", "silu"), k.want("tie_word_embeddings", True)
    token = GroupedQuery(
        name="self_attn", D=D, N=N, K=N, H=H, causal=False, dropout=k.want("attention_probs_dropout_prob", 0.0)
    )
    layer = Layer(
        sublayers=(
            Sublayer(block=counted("Nomic's BERT", token), of_sum=layer_norm("post_attention_layernorm", D)),
            Sublayer(
                block=Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act),
                of_sum=layer_norm("post_mlp_layernorm", D),
            ),
        )
    )
    given = stem(k, base, D, P=None, dropout=k.want("hidden_dropout_prob", 0.0))
    ids = tuple(
        Tensor(f"{base}.embeddings.{name}", (("X", 1), ("P", P)), "buffer", dtype="int64")
        for name in ("position_ids", "token_type_ids")
    )
    head = predictions(base, D, k.need("vocab_size"), act, tied=tied)
    return encoder(
        k,
        base,
        given.but(buffers=ids, rotary=(Rotary(f"{base}.rotary_emb", rotary_width(k, H)),)),
        (layer,) * k.need("num_hidden_layers"),
        head.but(norm=layer_norm("cls.predictions.transform.layer_norm", D)),
        positions=P,
        table=False,
        path="layers",
        # Only the classifier has a pooler.
        classifier=Head(name="classifier", D=D, V=1, bias=True, extra=pooler(base, D)),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/nomic_bert/"
    "modeling_nomic_bert.py",
)
