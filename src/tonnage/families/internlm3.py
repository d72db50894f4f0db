"""InternLM3: Llama's structure, its biases all or none."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``LlamaForCausalLM`` builds for this config."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = attention(k, D, K=2, H=128)
    bias = k.want("mlp_bias", False)
    if bias != token.bias:
        raise ConfigError(f"qkv_bias = {token.bias} and bias = {bias} differ", key="bias", value=bias)
    layer = normed_before(token, gated(k, D, bias=bias), D)
    return decoder(k, D, (layer,) * L, width=token.H, positions=32768)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/llama/modeling_llama.py",
    attributes={"attention_bias": "qkv_bias", "mlp_bias": "bias"},
)
