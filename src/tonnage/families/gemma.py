"""Gemma: wide heads, a GELU gate, norms that multiply by one plus their weight, a scaled and tied embedding."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, embed_scale, heads
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``GemmaForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 16)
    H, bias = k.want("head_dim", 256), k.want("attention_bias", False)
    k.refuse("use_bidirectional_attention")
    k.skip("hidden_activation")  # transformers reads hidden_act alone, and takes "gelu" for its tanh form
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        bias=bias,
        o_bias=bias,
        dropout=k.want("attention_dropout", 0.0),
    )
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "gelu_pytorch_tanh"))
    norm = (("D", D),)
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, before=Norm("input_layernorm", norm, "rms-gemma")),
            Sublayer(block=mlp, before=Norm("post_attention_layernorm", norm, "rms-gemma")),
        )
    )
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=(layer,) * L,
        norm=Norm("model.norm", norm, "rms-gemma"),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", True),
        positions=k.want("max_position_embeddings", 8192),
        scaled=True,
        buffers=(embed_scale("model"),),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gemma/modeling_gemma.py",
)
