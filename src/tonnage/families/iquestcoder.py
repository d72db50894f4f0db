"""IQuest-Coder: Llama's structure."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``LlamaForCausalLM`` builds for this config."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    k.refuse("clip_qkv")
    k.refuse("use_sliding_window")
    k.skip("sliding_window", "max_window_layers")
    token = attention(k, D, K=8, H=128)
    layer = normed_before(token, gated(k, D, bias=k.want("mlp_bias", False)), D)
    return decoder(k, D, (layer,) * L, width=token.H, positions=131072)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/llama/modeling_llama.py",
)
