"""Falcon-H1: every layer runs a Mamba 2 mixer and attention side by side, and a feed-forward block behind them."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.arch.side_by_side import SideBySide
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.families._hybrid import mamba2
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``FalconH1ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    full = attention(k, D, K=8, scaled_keys=True)
    told = k.optional("mamba_d_ssm", int, 1024)
    mixer = mamba2(k, D, inner=told, normed=k.want("mamba_rms_norm", False))
    # The norm stands before the gate unless the config says otherwise.
    first = k.want("mamba_norm_before_gate", True)
    mixer = mixer.but(out_bias=k.want("projectors_bias", False), norm_first=first, multiplied=True)
    mlp = gated(k, D, bias=k.want("mlp_bias", False), multiplied=True).but(name="feed_forward")
    for part in ("attention_in", "attention_out", "key", "lm_head", "embedding", "ssm_in", "ssm_out"):
        k.skip(f"{part}_multiplier")
    k.skip("mlp_multipliers", "ssm_multipliers", "num_logits_to_keep", "mamba_use_mlp")
    k.skip("layers_block_type", "attn_layer_indices")
    layer = normed_before(
        SideBySide(what="Falcon-H1's mixer and attention", parts=(mixer, full), mixer=mixer, inner=full),
        mlp,
        D,
        names=("input_layernorm", "pre_ff_layernorm"),
        kind="mamba and attention",
    )
    return decoder(
        k,
        D,
        (layer,) * L,
        width=full.H,
        positions=8192,
        norm="final_layernorm",
        scaled=True,
        head_scaled=True,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/falcon_h1/modeling_falcon_h1.py",
)
