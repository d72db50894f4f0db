"""Nemotron 3 and 4, Minitron: layer norms around one, a squared ReLU, half of every head turned (arXiv:2402.16819)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, normed_before, plain
from tonnage.families._decoder import rotary_width
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``NemotronForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    # The class falls over a config that leaves the heads of keys and values open.
    token = attention(k, D, K=k.need("num_key_value_heads"), rotary_style="returned")
    turned = rotary_width(k, token.H, 0.5)
    mlp = plain(k, D, "relu2", bias=k.want("mlp_bias", False))
    layer = normed_before(token.but(rotary_width=turned), mlp, D, style="layer-one")
    return decoder(k, D, (layer,) * L, width=turned, positions=4096, style="layer-one")


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/nemotron/"
    "modeling_nemotron.py",
)
