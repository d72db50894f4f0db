"""Bamba: Mamba 2 mixers with an attention layer now and then, and a feed-forward block behind each."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Layer, Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.families._decoder import rotary_width
from tonnage.families._hybrid import FULL, LINEAR, mamba2, whole_numbers
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``BambaForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    full = attention(k, D, K=8)
    width = rotary_width(k, full.H, 0.5)
    full = full.but(rotary_width=width, rotary_style="rebound")
    mixer = mamba2(k, D)
    mlp = gated(k, D, bias=k.want("mlp_bias", False)).but(name="feed_forward")
    # The layers of attention are told by their indices alone.
    attends = whole_numbers(k, "attn_layer_indices") or []
    k.skip("num_logits_to_keep", "z_loss_coefficient", "layers_block_type", "layer_types", "use_mamba_kernels")

    def layer(kind: str) -> Layer:
        return normed_before(
            full if kind == FULL else mixer,
            mlp,
            D,
            names=("input_layernorm", "pre_ff_layernorm"),
            kind="attention" if kind == FULL else "mamba",
        )

    layers = {kind: layer(kind) for kind in (FULL, LINEAR)}
    return decoder(
        k,
        D,
        tuple(layers[FULL if i in attends else LINEAR] for i in range(L)),
        width=width,
        positions=262144,
        norm="final_layernorm",
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/bamba/modeling_bamba.py",
)
