"""BERT: an encoder with norms behind each sum, token types beside positions, and a head that transforms first."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.families import Family
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``BertForMaskedLM`` builds. ``BertLMHeadModel`` holds the same tensors."""
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    V, L, P = k.need("vocab_size"), k.need("num_hidden_layers"), k.size("max_position_embeddings", 512)
    act = k.want("hidden_act", "gelu")
    dropout = k.want("hidden_dropout_prob", 0.1)
    k.refuse("add_cross_attention")
    k.refuse("position_embedding_type", "absolute")
    k.skip("gradient_checkpointing", "directionality", "pooler_fc_size", "pooler_num_attention_heads")
    k.skip("pooler_num_fc_layers", "pooler_size_per_head", "pooler_type")
    attention = GroupedQuery(
        name="attention",
        D=D,
        N=N,
        K=N,
        H=k.divides("hidden_size", "num_attention_heads", D, N),
        q="self.query",
        k="self.key",
        v="self.value",
        o="output.dense",
        bias=True,
        o_bias=True,
        rotary=None,
        causal=False,
        dropout=k.want("attention_probs_dropout_prob", 0.1),
        eager="uncast",
        o_apart=True,
    )
    mlp = Plain(
        name="", D=D, F=k.need("intermediate_size"), act=act, up="intermediate.dense", down="output.dense", holds=True
    )
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, of_sum=_norm("attention.output", D), dropout=dropout, named=True),
            Sublayer(block=mlp, of_sum=_norm("output", D), dropout=dropout, named=True),
        )
    )
    stem = "bert.embeddings"
    row = (("X", 1), ("P", P))
    tied = k.want("tie_word_embeddings", True)
    head = "cls.predictions"
    return Model(
        model_type="bert",
        stacks=(
            Stack(
                name="encoder",
                path="bert.encoder.layer",
                stem=Stem(
                    name=f"{stem}.word_embeddings",
                    V=V,
                    D=D,
                    tables=(
                        Table(name=f"{stem}.token_type_embeddings", rows=k.size("type_vocab_size", 2), width=D),
                        Table(name=f"{stem}.position_embeddings", rows=P, width=D, buffered=True),
                    ),
                    norm=_norm(stem, D),
                    dropout=dropout,
                    buffers=(
                        Tensor(f"{stem}.position_ids", row, "buffer", dtype="int64"),
                        Tensor(f"{stem}.token_type_ids", row, "buffer", dtype="int64"),
                    ),
                ),
                layers=(layer,) * L,
            ),
        ),
        head=Head(
            name=f"{head}.decoder",
            D=D,
            V=V,
            bias=True,
            alias_of=f"{stem}.word_embeddings.weight" if tied else None,
            bias_alias_of=f"{head}.bias" if tied else None,
            dense=Linear(f"{head}.transform.dense", (("D", D),), (("D", D),), "head", bias=True),
            act=act,
            norm=_norm(f"{head}.transform", D),
            extra=(Tensor(f"{head}.bias", (("V", V),), "head"),),
        ),
        pooler=tuple(Linear("bert.pooler.dense", (("D", D),), (("D", D),), "pooler", bias=True).weights()),
        positions=P,
        table=True,
        causal=False,
    )


def _norm(path: str, D: int) -> Norm:
    return Norm(f"{path}.LayerNorm", (("D", D),), "layer", bias=True)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/bert/modeling_bert.py",
)
