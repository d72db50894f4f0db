"""Tokenizers of images: convolutions to a small grid, whose cells are looked up in a table (arXiv:2012.09841)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from tonnage.errors import ConfigError
from tonnage.families._pieces import layer_norm
from tonnage.families._towers import convolution, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

VQ: Final[dict[str, Any]] = {
    "embed_dim": 256,
    "num_embeddings": 8192,
    "latent_channels": 256,
    "in_channels": 3,
    "base_channels": 128,
    "channel_multiplier": [1, 1, 2, 2, 4],
    "num_res_blocks": 2,
}
"""Defaults of ``ChameleonVQVAEConfig``."""

GROUPS: Final = 32
"""Groups of channels that are normed together."""


def encoder(k: Keys, path: str, attends: Callable[[int], bool], *, middle: bool = True) -> tuple[Tensor, ...]:
    """From the image to the grid, and the table; ``attends`` tells at which levels, ``middle`` whether between."""
    levels, base, outs = widths(k), k.need("base_channels"), k.need("latent_channels")
    outs *= 2 if k.want("double_latent", False) else 1
    C, blocks = base, k.need("num_res_blocks")
    found = list(convolution("conv_in", k.need("in_channels"), base, 3, 3))
    for level, width in enumerate(levels):
        for index in range(blocks):
            found += residual(f"down.{level}.block.{index}", C, width)
            C = width
            if attends(level):
                found += attention(f"down.{level}.attn.{index}", C)
        if level < len(levels) - 1:
            found += convolution(f"down.{level}.downsample.conv", C, C, 3, 3)
    found += [*between(C, middle), *layer_norm("norm_out", C).weights(), *convolution("conv_out", C, outs, 3, 3)]
    return tower("vision", f"{path}.encoder", *found) + _table(k, path)


def decoder(k: Keys, path: str) -> tuple[Tensor, ...]:
    """From the grid to the image, as Janus draws it."""
    levels, blocks = widths(k), k.need("num_res_blocks") + 1
    C = levels[-1]
    found = [*convolution("conv_in", k.need("latent_channels"), C, 3, 3), *between(C, True)]
    for step, width in enumerate(reversed(levels)):
        for index in range(blocks):
            found += residual(f"up.{step}.block.{index}", C, width)
            C = width
            if step == 0:
                found += attention(f"up.{step}.attn.{index}", C)
        if step < len(levels) - 1:
            found += convolution(f"up.{step}.upsample.conv", C, C, 3, 3)
    outs = k.size("out_channels", 3)
    found += [*layer_norm("norm_out", C).weights(), *convolution("conv_out", C, outs, 3, 3)]
    return tower("vision", f"{path}.decoder", *found)


def widths(k: Keys) -> list[int]:
    """Channels at every level."""
    times, base = k.need("channel_multiplier", list), k.need("base_channels")
    if not times or not all(isinstance(n, int) and n > 0 for n in times):
        raise ConfigError(f"{k.path}channel_multiplier must be whole numbers", key=f"{k.path}channel_multiplier")
    k.divides("base_channels", "the groups of a norm", base, GROUPS)
    return [n * base for n in times]


def _table(k: Keys, path: str) -> tuple[Tensor, ...]:
    D, outs, rows = k.need("embed_dim"), k.need("latent_channels"), k.need("num_embeddings")
    return tower(
        "vision",
        path,
        Tensor("quantize.embedding.weight", (("P", rows), ("D", D)), "vision"),
        *convolution("quant_conv", outs, D, 1, 1),
        *convolution("post_quant_conv", D, outs, 1, 1),
    )


def residual(name: str, ins: int, outs: int) -> Iterator[Tensor]:
    """Two convolutions behind norms, and one beside them where the width changes."""
    yield from layer_norm(f"{name}.norm1", ins).weights()
    yield from convolution(f"{name}.conv1", ins, outs, 3, 3)
    yield from layer_norm(f"{name}.norm2", outs).weights()
    yield from convolution(f"{name}.conv2", outs, outs, 3, 3)
    if ins != outs:
        yield from convolution(f"{name}.nin_shortcut", ins, outs, 1, 1)


def attention(name: str, C: int) -> Iterator[Tensor]:
    """Attention between the cells of the grid."""
    yield from layer_norm(f"{name}.norm", C).weights()
    for part in ("q", "k", "v", "proj_out"):
        yield from convolution(f"{name}.{part}", C, C, 1, 1)


def between(C: int, attends: bool) -> Iterator[Tensor]:
    """The blocks at the coarsest level."""
    yield from residual("mid.block_1", C, C)
    if attends:
        yield from attention("mid.attn_1", C)
    yield from residual("mid.block_2", C, C)
