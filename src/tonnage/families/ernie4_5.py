"""ERNIE 4.5: Llama's structure with neighbours turned in pairs, in fp32."""

from __future__ import annotations

from typing import Final

from tonnage.arch.layers import Rotary
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Ernie4_5ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    bias = bool(k.optional("use_bias", bool, False))
    # The modelled code drops no attention weights.
    k.skip("attention_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob")
    token = attention(k, D, K=2, H=128, bias=bias, o_bias=bias, dropout=0.0, rotary_style="interleaved-wide")
    layer = normed_before(token, gated(k, D, bias=bias), D)
    return decoder(
        k,
        D,
        (layer,) * L,
        width=token.H,
        positions=131072,
        tied=True,
        rotary=(Rotary("model.rotary_emb", token.H, dtype="fp32"),),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/ernie4_5/"
    "modeling_ernie4_5.py",
)
