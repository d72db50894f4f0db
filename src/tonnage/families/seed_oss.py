"""Seed-OSS: Llama's structure with biases of queries, keys and values, and dropout behind every block."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``SeedOssForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    dropout = k.want("residual_dropout", 0.1)
    token = attention(
        k,
        D,
        K=8,
        H=128,
        bias=k.want("attention_bias", True),
        o_bias=k.want("attention_out_bias", False),
        dropout=k.want("attention_dropout", 0.1),
        o_dropout=dropout,
    )
    layer = normed_before(token, gated(k, D, bias=k.want("mlp_bias", False), dropout=dropout), D)
    return decoder(k, D, (layer,) * L, width=token.H, positions=524288)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/seed_oss/"
    "modeling_seed_oss.py",
)
