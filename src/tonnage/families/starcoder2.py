"""StarCoder2: grouped-query attention with biases everywhere, a plain feed-forward, layer norms."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Starcoder2ForCausalLM`` builds.

    A window slides in every layer, and bounds what each caches.
    """
    D, N, L = k.need("hidden_size"), k.need("num_attention_heads"), k.need("num_hidden_layers")
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    K = k.size("num_key_value_heads", 2)
    k.divides("num_attention_heads", "num_key_value_heads", N, K)
    bias = k.want("use_bias", True)
    dropout = k.want("residual_dropout", 0.0)
    norm = (("D", D),)
    # Left over from the code that trained the model.
    k.skip(
        "activation_function", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "mlp_type", "norm_type"
    )
    k.skip("scale_attn_weights")
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        bias=bias,
        o_bias=bias,
        window=k.optional("sliding_window"),
        dropout=k.want("attention_dropout", 0.0),
        o_dropout=dropout,
    )
    mlp = Plain(
        name="mlp",
        D=D,
        F=k.need("intermediate_size"),
        act=k.want("hidden_act", "gelu_pytorch_tanh"),
        up="c_fc",
        down="c_proj",
        bias=bias,
        dropout=dropout,
    )
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, before=Norm("input_layernorm", norm, "layer", bias=True)),
            Sublayer(block=mlp, before=Norm("post_attention_layernorm", norm, "layer", bias=True)),
        )
    )
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=(layer,) * L,
        norm=Norm("model.norm", norm, "layer", bias=True),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", True),
        positions=k.size("max_position_embeddings", 4096),
        dropout=k.want("embedding_dropout", 0.0),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/starcoder2/"
    "modeling_starcoder2.py",
)
