"""Jina's embeddings v3: XLM-RoBERTa with rotary positions (arXiv:2409.10173). Its adapters stand apart from it."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import rotary_width
from tonnage.families._encoder import classifier, encoder, lm_head, pooler, stem
from tonnage.families._pieces import counted, layer_norm
from tonnage.keys import Keys
from tonnage.tensors import Tensor

BASE: Final = "roberta"


def read(k: Keys) -> Model:
    """Build the model that ``JinaEmbeddingsV3ForMaskedLM`` builds."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 8194)
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
        dropout=k.want("attention_probs_dropout_prob", 0.1),
    )
    channel = Plain(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "gelu"))
    layer = Layer(
        sublayers=(
            Sublayer(block=counted("Jina's embeddings", token), of_sum=layer_norm("post_attention_layernorm", D)),
            Sublayer(block=channel, of_sum=layer_norm("post_mlp_layernorm", D)),
        )
    )
    ids = tuple(
        Tensor(f"{BASE}.embeddings.{name}", (("X", 1), ("P", P)), "buffer", dtype="int64")
        for name in ("position_ids", "token_type_ids")
    )
    tied = k.want("tie_word_embeddings", True)
    return encoder(
        k,
        BASE,
        stem(k, BASE, D, P=None, types=1).but(buffers=ids, rotary=(Rotary(f"{BASE}.rotary_emb", rotary_width(k, H)),)),
        (layer,) * k.need("num_hidden_layers"),
        lm_head(BASE, D, k.need("vocab_size"), tied=tied),
        positions=P,
        table=False,
        path="layers",
        causal=False,
        pooler=pooler(BASE, D),
        classifier=classifier(D),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/jina_embeddings_v3/"
    "modeling_jina_embeddings_v3.py",
)
