"""BitNet: Llama's structure with a norm before every output matrix. The weights are counted as numbers."""

from __future__ import annotations

from typing import Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``BitNetForCausalLM`` builds. Its norm before the output matrix is as wide as the model."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = attention(k, D, K=5, o_norm=Norm("self_attn.attn_sub_norm", (("D", D),)))
    if token.N * token.H != D:
        raise ConfigError(
            f"head_dim = {token.H}: {token.N} heads do not make up hidden_size = {D}", key="head_dim", value=token.H
        )
    F = k.need("intermediate_size")
    act = k.want("hidden_act", "relu2")
    layer = normed_before(token, gated(k, D, inner_norm=Norm("mlp.ffn_sub_norm", (("F", F),))).but(act=act), D)
    return decoder(k, D, (layer,) * L, width=token.H, positions=2048)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/bitnet/modeling_bitnet.py",
)
