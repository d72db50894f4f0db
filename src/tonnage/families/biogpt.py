"""BioGPT: learned positions two rows longer than they count, layers as fairseq names them."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.layers import Norm
from tonnage.arch.model import Model, Stack
from tonnage.families import Family
from tonnage.families._blocks import fairseq_layer
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``BioGptForCausalLM`` builds."""
    D, N, V = k.need("hidden_size"), k.need("num_attention_heads"), k.need("vocab_size")
    L, P = k.need("num_hidden_layers"), k.size("max_position_embeddings", 1024)
    dropout = k.want("hidden_dropout_prob", 0.1)
    k.refuse("layerdrop", 0.0)
    k.skip("scale_embedding")
    layer = fairseq_layer(
        k,
        D,
        N,
        k.need("intermediate_size"),
        act=k.want("hidden_act", "gelu"),
        dropout=dropout,
        attention_dropout=k.want("attention_probs_dropout_prob", 0.1),
        eager="uncast",
    )
    tied = k.want("tie_word_embeddings", True)
    return Model(
        model_type="biogpt",
        stacks=(
            Stack(
                name="decoder",
                path="biogpt.layers",
                stem=Stem(
                    name="biogpt.embed_tokens",
                    V=V,
                    D=D,
                    tables=(Table(name="biogpt.embed_positions", rows=P + 2, width=D, offset=True),),
                    scaled=True,
                    scaled_within=True,
                    dropout=dropout,
                    position_ids="row",
                ),
                layers=(layer,) * L,
                norm=Norm("biogpt.layer_norm", (("D", D),), "layer", bias=True),
            ),
        ),
        head=Head(name="output_projection", D=D, V=V, alias_of="biogpt.embed_tokens.weight" if tied else None),
        positions=P,
        table=True,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/biogpt/modeling_biogpt.py",
)
