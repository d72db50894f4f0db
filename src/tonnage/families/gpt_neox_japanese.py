"""GPT-NeoX Japanese: no biases but one, in the last layer; heads turned as a whole unless told otherwise."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._decoder import rotary_width
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``GPTNeoXJapaneseForCausalLM`` builds."""
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    V, L = k.need("vocab_size"), k.need("num_hidden_layers")
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    turned = rotary_width(k, H, k.want("rotary_pct", 1.0))
    dropout = k.want("hidden_dropout", 0.0)
    k.skip("rotary_emb_base")
    F = int(D * k.want("intermediate_multiple_size", 4.0))
    if F < 1:
        raise ConfigError("intermediate_multiple_size leaves no inner width", key="intermediate_multiple_size", value=F)
    attention = GroupedQuery(
        name="attention",
        D=D,
        N=N,
        K=N,
        H=H,
        fused="query_key_value",
        fused_order="select",
        o="dense",
        rotary_width=turned,
        rotary_style="rebound",
        dropout=k.want("attention_dropout", 0.1),
        eager="baddbmm",
    )
    mlp = Plain(
        name="mlp",
        D=D,
        F=F,
        act=k.want("hidden_act", "gelu"),
        up="dense_h_to_4h",
        down="dense_4h_to_h",
        bias=False,
    )

    def layer(last: bool) -> Layer:
        first = Norm("input_layernorm", (("D", D),), "layer", bias=True)
        second = Norm("post_attention_layernorm", (("D", D),), "layer", bias=True)
        return Layer(
            sublayers=(
                Sublayer(block=attention.but(late_bias=last), before=first, dropout=dropout, holds_input=True),
                Sublayer(block=mlp, before=second, dropout=dropout, inline=True),
            ),
            carries=True,
            kind="last layer" if last else "layer",
        )

    base = "gpt_neox_japanese"
    tied = k.want("tie_word_embeddings", True)
    return Model(
        model_type="gpt_neox_japanese",
        stacks=(
            Stack(
                name="decoder",
                path=f"{base}.layers",
                stem=Stem(name=f"{base}.embed_in", V=V, D=D, rotary=(Rotary(f"{base}.rotary_emb", turned),)),
                layers=(layer(False),) * (L - 1) + (layer(True),),
                norm=Norm(f"{base}.final_layer_norm", (("D", D),), "layer", bias=True),
            ),
        ),
        head=Head(name="embed_out", D=D, V=V, alias_of=f"{base}.embed_in.weight" if tied else None),
        positions=k.size("max_position_embeddings", 2048),
        eager_only=True,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gpt_neox_japanese/"
    "modeling_gpt_neox_japanese.py",
)
