"""GPT-NeoX and Pythia: attention and feed-forward beside each other, a quarter of every head turned."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import rotary_width
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``GPTNeoXForCausalLM`` builds."""
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    V, L = k.need("vocab_size"), k.need("num_hidden_layers")
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    turned = rotary_width(k, H, k.want("rotary_pct", 0.25))
    bias = k.want("attention_bias", True)
    dropout = k.want("hidden_dropout", 0.0)
    norm = (("D", D),)
    k.skip("rotary_emb_base")
    attention = GroupedQuery(
        name="attention",
        D=D,
        N=N,
        K=N,
        H=H,
        fused="query_key_value",
        fused_order="chunk",
        o="dense",
        bias=bias,
        o_bias=bias,
        rotary_width=turned,
        rotary_style="rebound",
        dropout=k.want("attention_dropout", 0.0),
    )
    mlp = Plain(
        name="mlp",
        D=D,
        F=k.need("intermediate_size"),
        act=k.want("hidden_act", "gelu"),
        up="dense_h_to_4h",
        down="dense_4h_to_h",
    )
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, before=Norm("input_layernorm", norm, "layer", bias=True), dropout=dropout),
            Sublayer(block=mlp, before=Norm("post_attention_layernorm", norm, "layer", bias=True), dropout=dropout),
        ),
        parallel=k.want("use_parallel_residual", True),
    )
    tied = k.want("tie_word_embeddings", False)
    return Model(
        model_type="gpt_neox",
        stacks=(
            Stack(
                name="decoder",
                path="gpt_neox.layers",
                stem=Stem(
                    name="gpt_neox.embed_in",
                    V=V,
                    D=D,
                    rotary=(Rotary("gpt_neox.rotary_emb", turned),),
                    dropout=dropout,
                ),
                layers=(layer,) * L,
                norm=Norm("gpt_neox.final_layer_norm", norm, "layer", bias=True),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, alias_of="gpt_neox.embed_in.weight" if tied else None),
        positions=k.size("max_position_embeddings", 2048),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gpt_neox/"
    "modeling_gpt_neox.py",
)
