"""XGLM: fixed sinusoidal positions that grow as needed, layers as fairseq names them."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.layers import Norm
from tonnage.arch.model import Model, Stack
from tonnage.families import Family
from tonnage.families._blocks import fairseq_layer
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``XGLMForCausalLM`` builds. Its table of positions has two rows more than it counts."""
    D, N, V = k.need("hidden_size"), k.need("num_attention_heads"), k.need("vocab_size")
    L, P = k.need("num_hidden_layers"), k.size("max_position_embeddings", 2048)
    dropout = k.want("dropout", 0.1)
    k.refuse("layerdrop", 0.0)
    k.refuse("add_cross_attention")
    k.skip("scale_embedding")
    layer = fairseq_layer(
        k,
        D,
        N,
        k.size("ffn_dim", 4096),
        act=k.want("activation_function", "gelu"),
        dropout=dropout,
        attention_dropout=k.want("attention_dropout", 0.1),
        eager="floored",
    )
    tied = k.want("tie_word_embeddings", True)
    return Model(
        model_type="xglm",
        stacks=(
            Stack(
                name="decoder",
                path="model.layers",
                stem=Stem(
                    name="model.embed_tokens",
                    V=V,
                    D=D,
                    scaled=True,
                    scaled_within=True,
                    dropout=dropout,
                    tables=(Table(name="model.embed_positions.weights", rows=P + 2, width=D, fixed=True, offset=True),),
                ),
                layers=(layer,) * L,
                norm=Norm("model.layer_norm", (("D", D),), "layer", bias=True),
                placed=True,
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, alias_of="model.embed_tokens.weight" if tied else None),
        positions=P,
        eager_only=True,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/xglm/modeling_xglm.py",
    attributes={
        "hidden_size": "d_model",
        "num_attention_heads": "attention_heads",
        "num_hidden_layers": "num_layers",
    },
)
