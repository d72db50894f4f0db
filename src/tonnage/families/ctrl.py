"""CTRL: fixed sinusoidal positions, separate projections with biases, a biased head."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.families import Family
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``CTRLLMHeadModel`` builds."""
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    V, L, P = k.need("vocab_size"), k.need("num_hidden_layers"), k.size("max_position_embeddings", 256)
    dropout = k.want("resid_pdrop", 0.1)
    norm = (("D", D),)
    # The modelled code drops no attention weights.
    k.skip("attn_pdrop", "n_ctx", "from_tf")
    attention = GroupedQuery(
        name="multi_head_attention",
        D=D,
        N=N,
        K=N,
        H=k.divides("n_embd", "n_head", D, N),
        q="Wq",
        k="Wk",
        v="Wv",
        o="dense",
        bias=True,
        o_bias=True,
        rotary=None,
        eager="uncast",
    )
    mlp = Plain(name="ffn", D=D, F=k.size("dff", 8192), act="relu", up="0", down="2")
    layer = Layer(
        sublayers=(
            Sublayer(
                block=attention,
                before=Norm("layernorm1", norm, "layer", bias=True),
                dropout=dropout,
                holds_dropped=True,
                holds_input=True,
            ),
            Sublayer(
                block=mlp,
                before=Norm("layernorm2", norm, "layer", bias=True),
                dropout=dropout,
                holds_dropped=True,
                holds_input=True,
            ),
        )
    )
    tied = k.want("tie_word_embeddings", True)
    return Model(
        model_type="ctrl",
        stacks=(
            Stack(
                name="decoder",
                path="transformer.h",
                stem=Stem(
                    name="transformer.w",
                    V=V,
                    D=D,
                    dropout=k.want("embd_pdrop", 0.1),
                    tables=(Table(name="transformer.pos_encoding", rows=P, width=D, fixed=True),),
                    scaled=True,
                    scaled_in_place=True,
                    adds_zero=True,
                ),
                layers=(layer,) * L,
                norm=Norm("transformer.layernorm", norm, "layer", bias=True),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, bias=True, alias_of="transformer.w.weight" if tied else None),
        positions=P,
        table=True,
        classifier=Head(name="classifier", D=D, V=1),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/ctrl/modeling_ctrl.py",
    attributes={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
)
