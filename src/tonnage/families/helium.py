"""Helium: Llama's structure with neighbours turned in pairs and norms in fp32."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``HeliumForCausalLM`` builds. Its output matrix is square whatever a head's width."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    bias = k.want("attention_bias", False)
    token = attention(k, D, K=20, H=128, bias=bias, o_bias=False, rotary_style="interleaved")
    if token.N * token.H != D:
        raise ConfigError(
            f"head_dim = {token.H}: {token.N} heads do not make up hidden_size = {D}", key="head_dim", value=token.H
        )
    mlp = gated(k, D, bias=k.want("mlp_bias", False))
    layer = normed_before(token, mlp, D, style="rms-cast-weight")
    return decoder(k, D, (layer,) * L, width=token.H, positions=4096, style="rms-cast-weight")


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/helium/modeling_helium.py",
)
