"""OPT: learned positions two rows longer than they count, norms before or behind, projected embeddings in one size."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.families import Family
from tonnage.keys import Keys

OFFSET: Final = 2
"""Rows of the position table that are never counted as positions."""


def read(k: Keys) -> Model:
    """Build the model that ``OPTForCausalLM`` builds."""
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    V, L, P = k.need("vocab_size"), k.need("num_hidden_layers"), k.size("max_position_embeddings", 2048)
    width = k.optional("word_embed_proj_dim") or D
    bias = k.want("enable_bias", True)
    affine = k.want("layer_norm_elementwise_affine", True)
    first = k.want("do_layer_norm_before", True)
    dropout = k.want("dropout", 0.1)
    k.refuse("layerdrop", 0.0)
    k.skip("activation_dropout")
    norms = [
        Norm(name, (("D", D),), "layer", bias=affine, weight=affine)
        for name in ("self_attn_layer_norm", "final_layer_norm", "model.decoder.final_layer_norm")
    ]
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=N,
        H=k.divides("hidden_size", "num_attention_heads", D, N),
        o="out_proj",
        bias=bias,
        o_bias=bias,
        rotary=None,
        scaled_queries=True,
        dropout=k.want("attention_dropout", 0.0),
    )
    mlp = Plain(name="", D=D, F=k.need("ffn_dim"), act=k.want("activation_function", "relu"), bias=bias)
    layer = Layer(
        sublayers=tuple(
            Sublayer(
                block=block,
                before=norm if first else None,
                of_sum=None if first else norm,
                dropout=dropout,
                inline=block is mlp,
            )
            for block, norm in ((attention, norms[0]), (mlp, norms[1]))
        )
    )
    table = "model.decoder.embed_tokens"
    projected = width != D
    out = Linear("model.decoder.project_out", (("D", D),), (("D", width),), "head") if projected else None
    tied = k.want("tie_word_embeddings", True)
    return Model(
        model_type="opt",
        stacks=(
            Stack(
                name="decoder",
                path="model.decoder.layers",
                stem=Stem(
                    name=table,
                    V=V,
                    D=D,
                    tables=(Table(name="model.decoder.embed_positions", rows=P + OFFSET, width=D, batched=True),),
                    position_ids="batch",
                    width=width if projected else None,
                    project="model.decoder.project_in" if projected else None,
                ),
                layers=(layer,) * L,
                norm=norms[2] if first and not k.want("_remove_final_layer_norm", False) else None,
            ),
        ),
        head=Head(
            name="lm_head",
            D=width,
            V=V,
            alias_of=f"{table}.weight" if tied else None,
            project=out,
        ),
        positions=P,
        table=True,
        # The matrix behind the layers is part of the bare class, too, and the labels are of its width.
        pooler=() if out is None else tuple(out.weights()),
        classifier=None if out is None else Head(name="score", D=width, V=1, project=out),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/opt/modeling_opt.py",
)
