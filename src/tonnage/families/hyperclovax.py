"""HyperCLOVA X: Granite's structure with norms behind attention and feed-forward as well."""

from __future__ import annotations

from typing import Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``HyperCLOVAXForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = attention(k, D)
    mlp = gated(k, D, bias=k.want("mlp_bias", False))
    width, behind = (("D", D),), k.want("use_post_norm", True)
    layer = Layer(
        sublayers=tuple(
            Sublayer(block=block, before=Norm(first, width), after=Norm(last, width) if behind else None, scaled=True)
            for block, first, last in (
                (token, "input_layernorm", "post_norm1"),
                (mlp, "post_attention_layernorm", "post_norm2"),
            )
        )
    )
    return decoder(k, D, (layer,) * L, width=token.H, positions=2048, scaled=True, head_scaled=True)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/hyperclovax/"
    "modeling_hyperclovax.py",
)
