"""Phi-1, Phi-1.5, Phi-2: attention and feed-forward beside each other behind one norm, part of every head turned."""

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
    """Build the model that ``PhiForCausalLM`` builds."""
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    V, L = k.need("vocab_size"), k.need("num_hidden_layers")
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    K = k.optional("num_key_value_heads") or N
    k.divides("num_attention_heads", "num_key_value_heads", N, K)
    turned = rotary_width(k, H, 0.5)
    dropout = k.want("resid_pdrop", 0.0)
    norm = (("D", D),)
    normed = k.want("qk_layernorm", False)
    head = (("H", D // N),)
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        o="dense",
        bias=True,
        o_bias=True,
        q_norm=Norm("self_attn.q_layernorm", head, "layer", bias=True) if normed else None,
        k_norm=Norm("self_attn.k_layernorm", head, "layer", bias=True) if normed else None,
        rotary_width=turned,
        rotary_style="cut",
        dropout=k.want("attention_dropout", 0.0),
    )
    mlp = Plain(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "gelu_new"))
    layer = Layer(
        sublayers=(Sublayer(block=attention, dropout=dropout), Sublayer(block=mlp, dropout=dropout)),
        norm=Norm("input_layernorm", norm, "layer", bias=True),
        parallel=True,
    )
    tied = k.want("tie_word_embeddings", False)
    return Model(
        model_type="phi",
        stacks=(
            Stack(
                name="decoder",
                path="model.layers",
                stem=Stem(
                    name="model.embed_tokens",
                    V=V,
                    D=D,
                    rotary=(Rotary("model.rotary_emb", turned),),
                    dropout=k.want("embd_pdrop", 0.0),
                ),
                layers=(layer,) * L,
                norm=Norm("model.final_layernorm", norm, "layer", bias=True),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, bias=True, alias_of="model.embed_tokens.weight" if tied else None),
        positions=k.size("max_position_embeddings", 2048),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/phi/modeling_phi.py",
)
