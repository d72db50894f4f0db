"""GLM-4 (9B): Llama's structure with half of every head turned and gate and up in one matrix."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.families._decoder import rotary_width
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``GlmForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = attention(k, D, K=2, H=128, bias=k.want("attention_bias", True), rotary_style="repeated")
    turned = rotary_width(k, token.H, 0.5)
    layer = normed_before(token.but(rotary_width=turned), gated(k, D, fused="gate_up_proj"), D)
    return decoder(k, D, (layer,) * L, width=turned, positions=131072)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/glm/modeling_glm.py",
)
