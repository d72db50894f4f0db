"""Kimi Linear: Kimi delta attention, latent attention without positions in every fourth layer, experts."""

from __future__ import annotations

from typing import Final

from tonnage.arch.mixers.delta import KimiDelta
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import decoder
from tonnage.families._composite import nested
from tonnage.families._decoder import latent
from tonnage.families._hybrid import FULL, KIMI, LINEAR, kimi_layers, kimi_released, layer_kinds, untied
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``KimiLinearForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    own = k.config.get("linear_attn_config")
    sizes = (k.size("linear_num_heads", 32), k.size("linear_head_dim", 128), k.size("linear_conv_kernel_dim", 4))
    kinds: tuple[str, ...] | None = None
    if own is not None:
        sizes, kinds = nested(k, "linear_attn_config", lambda inner: kimi_released(inner, L, sizes)) or (sizes, None)
    N, H, C = sizes
    delta = KimiDelta(name="self_attn", D=D, N=N, H=H, C=C, modelled=True)
    full = latent(k, D, style="none").but(q_rank=k.optional("q_lora_rank"))
    if k.config.get("layer_types") is not None or kinds is None:
        kinds = layer_kinds(k, L, lambda i: FULL if i and i % 4 == 0 else LINEAR)
    k.skip("layer_types")
    model = decoder(
        k,
        D,
        kimi_layers(k, D, kinds, delta, full, dense=1, F=1024, E=256)[0],
        width=1,
        positions=1048576,
        rotary=(),
    )
    # Layers are handed the positions although nothing turns by them.
    model = model.but(stacks=(model.decoder.but(stem=model.decoder.stem.but(position_ids="row")),))
    return untied(model)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/kimi_linear/modeling_kimi_linear.py",
    attributes=KIMI,
)
