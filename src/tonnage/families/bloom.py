"""BLOOM: a bias of distance in place of positions, packed projections, the embedding normed."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Alibi, Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.families import Family
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``BloomForCausalLM`` builds."""
    D = k.need("hidden_size")
    N, V, L = k.need("num_attention_heads"), k.need("vocab_size"), k.need("num_hidden_layers")
    k.refuse("apply_residual_connection_post_layernorm")
    k.refuse("slow_but_exact")
    # The bias reaches any distance: seq_length tells what the model was trained on.
    P = k.size("seq_length", 2048)
    k.skip("attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion", "offset_alibi", "skip_bias_add")
    k.skip("skip_bias_add_qkv", "n_inner")
    dropout = k.want("hidden_dropout", 0.0)
    norm = (("D", D),)
    attention = GroupedQuery(
        name="self_attention",
        D=D,
        N=N,
        K=N,
        H=k.divides("hidden_size", "n_head", D, N),
        fused="query_key_value",
        fused_order="select",
        o="dense",
        bias=True,
        o_bias=True,
        rotary=None,
        position_bias="alibi",
        dropout=k.want("attention_dropout", 0.0),
        eager="bloom",
        adds=True,
    )
    mlp = Plain(name="mlp", D=D, F=4 * D, act="bloom_gelu", up="dense_h_to_4h", down="dense_4h_to_h", holds=True)
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, before=Norm("input_layernorm", norm, "layer", bias=True), dropout=dropout),
            Sublayer(
                block=mlp,
                before=Norm("post_attention_layernorm", norm, "layer", bias=True),
                dropout=dropout,
                holds=True,
                holds_input=True,
            ),
        ),
        carries=True,
    )
    table = "transformer.word_embeddings"
    tied = k.want("tie_word_embeddings", True)
    return Model(
        model_type="bloom",
        stacks=(
            Stack(
                name="decoder",
                path="transformer.h",
                stem=Stem(
                    name=table,
                    V=V,
                    D=D,
                    norm=Norm(f"{table}_layernorm", norm, "layer", bias=True),
                    alibi=Alibi(N, "bloom", P),
                ),
                layers=(layer,) * L,
                norm=Norm("transformer.ln_f", norm, "layer", bias=True),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, alias_of=f"{table}.weight" if tied else None),
        positions=P,
        eager_only=True,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/bloom/modeling_bloom.py",
    attributes={"hidden_size": "n_embed", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"},
)
