"""CPM-Ant: a prompt of learned tokens before every sequence, relative positions and segments, norms before."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.arch.untraced import Untraced
from tonnage.families import Family
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``CpmAntForCausalLM`` builds. The head is a table of its own, whatever the config says."""
    D, N, V = k.need("hidden_size"), k.need("num_attention_heads"), k.need("vocab_size")
    dropout = k.want("dropout_p", 0.0)
    k.skip("position_bias_max_distance", "eps", "tie_word_embeddings", "mask_modules", "half")
    norm = (("D", D),)
    prompt, segments = k.size("prompt_length", 32), k.size("segment_types", 32)
    attention = GroupedQuery(
        name="self_att.self_attention",
        D=D,
        N=N,
        K=N,
        H=k.size("dim_head", 128),
        q="project_q",
        k="project_k",
        v="project_v",
        o="attention_out",
        rotary=None,
        dropout=dropout,
    )
    mlp = Gated(
        name="ffn.ffn",
        D=D,
        F=k.size("dim_ff", 10240),
        act="gelu",
        gate="w_in.w_0",
        up="w_in.w_1",
        down="w_out",
        inner_dropout=dropout,
    )
    layer = Layer(
        sublayers=(
            Sublayer(
                block=Untraced(block=attention, what="attention with segments", ahead=prompt),
                before=Norm("self_att.layernorm_before_attention", norm, "rms-t5"),
                dropout=dropout,
            ),
            Sublayer(block=mlp, before=Norm("ffn.layernorm_before_ffn", norm, "rms-t5"), dropout=dropout),
        )
    )
    rows = segments**2 + k.size("position_bias_num_buckets", 512)
    bias = Tensor("cpmant.position_bias.relative_attention_bias", (("P", rows), ("N", N)), "position")
    return Model(
        model_type="cpmant",
        stacks=(
            Stack(
                name="decoder",
                path="cpmant.encoder.layers",
                stem=Stem(
                    name="cpmant.input_embedding",
                    V=V,
                    D=D,
                    rows=V + k.size("prompt_types", 32) * prompt,
                    tables=(Table(name="cpmant.segment_embedding", rows=segments, width=D),),
                ),
                layers=(layer,) * k.need("num_hidden_layers"),
                norm=Norm("cpmant.encoder.output_layernorm", norm, "rms-t5"),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V),
        positions=None,
        eager_only=True,
        extra=(bias,),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/cpmant/modeling_cpmant.py",
)
