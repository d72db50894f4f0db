"""GPT-2: learned positions, one packed projection stored input first, dropout everywhere."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.arch.parts import KeyValues
from tonnage.families import Family
from tonnage.families._pieces import counted, layer_norm
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``GPT2LMHeadModel`` builds."""
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    V, L = k.need("vocab_size"), k.need("num_hidden_layers")
    P = k.size("max_position_embeddings", 1024)
    dropout = k.want("resid_pdrop", 0.1)
    norm = (("D", D),)
    # It changes eager attention in mixed precision.
    k.refuse("reorder_and_upcast_attn")
    k.skip("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "n_ctx")
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
        eager="native",
    )
    mlp = Plain(
        name="mlp",
        D=D,
        F=k.optional("n_inner") or 4 * D,
        act=k.want("activation_function", "gelu_new"),
        up="c_fc",
        down="c_proj",
        transposed=True,
        dropout=dropout,
    )
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, before=Norm("ln_1", norm, "layer", bias=True), holds=True),
            *_crosses(k, D, N, attention.H),
            Sublayer(block=mlp, before=Norm("ln_2", norm, "layer", bias=True), holds_input=True),
        )
    )
    tied = k.want("tie_word_embeddings", True)
    return Model(
        model_type="gpt2",
        stacks=(
            Stack(
                name="decoder",
                path="transformer.h",
                stem=Stem(
                    name="transformer.wte",
                    V=V,
                    D=D,
                    tables=(Table(name="transformer.wpe", rows=P, width=D, handed=True),),
                    dropout=k.want("embd_pdrop", 0.1),
                ),
                layers=(layer,) * L,
                norm=Norm("transformer.ln_f", norm, "layer", bias=True),
                placed=True,
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, alias_of="transformer.wte.weight" if tied else None),
        positions=P,
        table=True,
    )


def _crosses(k: Keys, D: int, N: int, H: int) -> tuple[Sublayer, ...]:
    """Attention to an encoder, which a decoder of a pair has: keys and values are packed, queries apart."""
    if not k.want("add_cross_attention", False):
        return ()
    width, heads, path = (("D", D),), (("N", N), ("H", H)), "crossattention"
    block = counted(
        "GPT-2's cross attention",
        Linear(f"{path}.c_attn", width, (("X", 2), *heads), "attention", bias=True, transposed=True),
        Linear(f"{path}.q_attn", width, heads, "attention", bias=True, transposed=True),
        Linear(f"{path}.c_proj", heads, width, "attention", bias=True, transposed=True),
        KeyValues(K=N, H=H, cross=True),
    )
    return (Sublayer(block=block, before=layer_norm("ln_cross_attn", D)),)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gpt2/modeling_gpt2.py",
    attributes={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
)
