"""GTE's encoder: BERT's embedding without positions, rotary ones in the layers, gated blocks (arXiv:2407.19669)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Table
from tonnage.arch.layers import Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import rotary_width
from tonnage.families._encoder import encoder, pooler, stem
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys

BASE: Final = "gte"


def read(k: Keys) -> Model:
    """Build the model that ``GteForMaskedLM`` builds."""
    D, V = k.need("hidden_size"), k.need("vocab_size")
    table, tied = f"{BASE}.embeddings", k.want("tie_word_embeddings", True)
    types = k.want("type_vocab_size", 1)
    layer, H = _layer(k, D)
    given = stem(k, BASE, D, P=None, types=None).but(
        tables=(Table(name=f"{table}.token_type_embeddings", rows=types, width=D),) if types else (),
        rotary=(Rotary(f"{BASE}.rotary_emb", rotary_width(k, H)),),
    )
    head = Head(
        name="lm_head.decoder",
        D=D,
        V=V,
        bias=True,
        alias_of=f"{table}.word_embeddings.weight" if tied else None,
        dense=matrix("lm_head.dense", ("D", D), ("D", D), "head"),
        norm=layer_norm("lm_head.layer_norm", D),
    )
    return encoder(
        k,
        BASE,
        given,
        (layer,) * k.need("num_hidden_layers"),
        head,
        positions=k.size("max_position_embeddings", 8192),
        table=False,
        path="layers",
        causal=False,
        # Only the classifier has a pooler.
        classifier=Head(name="classifier", D=D, V=1, bias=True, extra=pooler(BASE, D)),
    )


def _layer(k: Keys, D: int) -> tuple[Layer, int]:
    """A layer with norms behind the sums, and the width of its heads. Of the gated block only the output has a bias."""
    N, F = k.need("num_attention_heads"), k.need("intermediate_size")
    k.skip("hidden_act")
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    token = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=N,
        H=H,
        bias=True,
        o_bias=True,
        causal=False,
        dropout=k.want("attention_probs_dropout_prob", 0.0),
    )
    gated = (
        *(matrix(f"mlp.{name}", ("D", D), ("F", F), "feed_forward", bias=False) for name in ("gate_proj", "up_proj")),
        matrix("mlp.down_proj", ("F", F), ("D", D), "feed_forward"),
    )
    layer = Layer(
        sublayers=(
            Sublayer(block=counted("GTE", token), of_sum=layer_norm("post_attention_layernorm", D)),
            Sublayer(block=counted("GTE", *gated), of_sum=layer_norm("post_mlp_layernorm", D)),
        )
    )
    return layer, H


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gte/modeling_gte.py",
)
