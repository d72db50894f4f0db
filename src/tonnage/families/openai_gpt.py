"""GPT: learned positions, norms behind each sum, no cache."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.families import Family
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``OpenAIGPTLMHeadModel`` builds. It keeps no keys and values: every token is read anew."""
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    V, L, P = k.need("vocab_size"), k.need("num_hidden_layers"), k.size("max_position_embeddings", 512)
    dropout = k.want("resid_pdrop", 0.1)
    norm = (("D", D),)
    k.skip("n_ctx", "n_special", "predict_special_tokens")
    square = (("X", 1), ("X", 1), ("P", P), ("P", P))
    attention = GroupedQuery(
        name="attn",
        D=D,
        N=N,
        K=N,
        H=k.divides("n_embd", "n_head", D, N),
        fused="c_attn",
        o="c_proj",
        bias=True,
        o_bias=True,
        transposed=True,
        rotary=None,
        dropout=k.want("attn_pdrop", 0.1),
        o_dropout=dropout,
        eager="triangle",
        cached=False,
        buffers=(Tensor("attn.bias", square, "buffer"),),
    )
    act = k.want("afn", "gelu")
    mlp = Plain(
        name="mlp",
        D=D,
        F=4 * D,
        act="gelu_new" if act == "gelu" else act,
        up="c_fc",
        down="c_proj",
        transposed=True,
        dropout=dropout,
        names=True,
    )
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, of_sum=Norm("ln_1", norm, "layer", bias=True), holds=True),
            Sublayer(block=mlp, of_sum=Norm("ln_2", norm, "layer", bias=True), holds=True),
        )
    )
    tied = k.want("tie_word_embeddings", True)
    return Model(
        model_type="openai-gpt",
        stacks=(
            Stack(
                name="decoder",
                path="transformer.h",
                stem=Stem(
                    name="transformer.tokens_embed",
                    V=V,
                    D=D,
                    tables=(Table(name="transformer.positions_embed", rows=P, width=D, buffered=True, named=True),),
                    adds_zero=True,
                    dropout=k.want("embd_pdrop", 0.1),
                    buffers=(Tensor("transformer.position_ids", (("P", P),), "buffer", dtype="int64"),),
                ),
                layers=(layer,) * L,
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, alias_of="transformer.tokens_embed.weight" if tied else None),
        positions=P,
        table=True,
        eager_only=True,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/openai/modeling_openai.py",
    attributes={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
)
