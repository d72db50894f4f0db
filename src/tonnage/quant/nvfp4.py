"""NVFP4 as transformers makes it while loading: blocks of 16 with their FP8 scales in two layouts.

The prefill's kernel reads scales in tiles of 128 rows by 4 blocks, the decode's reads them by rows: both are kept.
"""

from __future__ import annotations

from typing import Final

from tonnage.keys import Keys
from tonnage.quant._stored import PACKED, SCALES, Matrix, Part, Recipe, Scheme, numbered, options, up

SOURCE: Final = (
    "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/nvfp4.py NVFP4Linear"
)
BLOCK: Final = 16
TILE: Final = (128, 4)


def parts(m: Matrix) -> tuple[Part, ...]:
    """Packed values, scales in tiles and by rows, and one number for the matrix."""
    letter, blocks = m.ins[0], up(m.columns, BLOCK)
    rows, columns = up(m.rows, TILE[0]) * TILE[0], up(blocks, TILE[1]) * TILE[1]
    return (
        Part("weight", (m.outs, (letter, m.columns // 2)), "uint8", PACKED),
        Part("weight_sf", ((m.outs[0], rows), (letter, columns // 4)), "int32", SCALES),
        Part("weight_sf_rowmajor", (m.outs, (letter, blocks)), "uint8", SCALES),
        Part("weight_global_scale", (("X", 1),), "fp32", SCALES),
    )


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``NVFP4Config``."""
    k.skip("modules_to_not_convert")
    skips = options(k.config, "modules_to_not_convert")
    return Recipe(
        method="nvfp4",
        title=f"NVFP4 made while loading, blocks of {BLOCK}",
        source=SOURCE,
        store=parts,
        takes=lambda m: m.linear and not m.biased and not (m.columns % BLOCK or m.rows % 16) and m.role != "router",
        skips=skips,
        by_layer=numbered(skips),
        told=("it needs a device of compute capability 10.0, and scales in tiles of 128 x 4 are assumed",),
    )


SCHEME: Final = Scheme(read=read, source=SOURCE)
