"""Apertus: norms of query and key heads, a plain feed-forward block whose activation function learns."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, normed_before, normed_heads, plain
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``ApertusForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    # Written by the code that trained the models; transformers knows one value of each.
    k.refuse("mlp_bias")
    k.refuse("post_norm")
    k.refuse("qk_norm", True)
    k.skip("hidden_dropout")
    token = attention(k, D)
    token = normed_heads(token)
    act = k.want("hidden_act", "xielu")
    layer = normed_before(
        token,
        plain(k, D, act, bias=False, learned=act == "xielu"),
        D,
        names=("attention_layernorm", "feedforward_layernorm"),
    )
    return decoder(k, D, (layer,) * L, width=token.H, positions=65536)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/apertus/"
    "modeling_apertus.py",
)
