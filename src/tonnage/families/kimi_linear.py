"""Kimi Linear: Kimi delta attention, latent attention without positions in every fourth layer, experts."""

from __future__ import annotations

from typing import Final

from tonnage.arch.delta import KimiDelta
from tonnage.arch.model import Model
from tonnage.arch.untraced import Untraced
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import decoder
from tonnage.families._composite import nested
from tonnage.families._decoder import latent
from tonnage.families._hybrid import FULL, KIMI, LINEAR, kimi_layers, layer_kinds, untied
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``KimiLinearForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    own = k.config.get("linear_attn_config")
    sizes = (k.size("linear_num_heads", 32), k.size("linear_head_dim", 128), k.size("linear_conv_kernel_dim", 4))
    kinds: tuple[str, ...] | None = None
    if own is not None:
        sizes, kinds = nested(k, "linear_attn_config", lambda inner: _released(inner, L, sizes)) or (sizes, None)
    N, H, C = sizes
    delta = KimiDelta(name="self_attn", D=D, N=N, H=H, C=C)
    full = Untraced(
        block=latent(k, D, style="none").but(q_rank=k.optional("q_lora_rank")), what="Kimi Linear's attention"
    )
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
    return untied(model)


def _released(k: Keys, layers: int, sizes: tuple[int, int, int]) -> tuple[tuple[int, int, int], tuple[str, ...] | None]:
    """Sizes and kinds of layer as the released checkpoint tells them: layers are counted from one."""
    sizes = (
        k.size("num_heads", sizes[0]),
        k.size("head_dim", sizes[1]),
        k.size("short_conv_kernel_size", sizes[2]),
    )
    full, linear = k.optional("full_attn_layers", list), k.optional("kda_layers", list)
    if full is None or linear is None:
        return sizes, None
    if sorted([*full, *linear]) != list(range(1, layers + 1)):
        raise ConfigError(
            f"{k.path}full_attn_layers and kda_layers are not the {layers} layers",
            key=f"{k.path}full_attn_layers",
            value=full,
        )
    return sizes, tuple(FULL if i + 1 in full else LINEAR for i in range(layers))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/kimi_linear/modeling_kimi_linear.py",
    attributes=KIMI,
)
