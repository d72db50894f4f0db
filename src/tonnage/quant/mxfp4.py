"""MXFP4 as gpt-oss stores it: the experts in blocks of 32 four-bit values with a one-byte exponent.

Of a matrix of ``r x c`` there are ``r c / 2`` bytes of values and ``r c / 32`` bytes of exponents.
"""

from __future__ import annotations

from typing import Final

from tonnage.keys import Keys
from tonnage.quant._stored import PACKED, SCALES, Matrix, Part, Recipe, Scheme, numbered, options, up

SOURCE: Final = (
    "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/mxfp4.py "
    "Mxfp4GptOssExperts, convert_moe_packed_tensors"
)
BLOCK: Final = 32


def parts(m: Matrix) -> tuple[Part, ...]:
    """Blocks of values and their exponents, two values a byte.

    >>> m = Matrix(module="e", role="expert", outs=("F", 64), ins=("D", 2880), batch=(("E", 4),))
    >>> [p.axes[1][1] for p in parts(m)]
    [1440, 90]
    """
    letter = m.ins[0]
    return (
        Part("blocks", (m.outs, (letter, up(m.columns, BLOCK) * BLOCK // 2)), "uint8", PACKED),
        Part("scales", (m.outs, (letter, up(m.columns, BLOCK))), "uint8", SCALES),
    )


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``Mxfp4Config``."""
    dense = k.want("dequantize", False)
    k.skip("modules_to_not_convert")
    skips = options(k.config, "modules_to_not_convert")
    return Recipe(
        method="mxfp4",
        title="MXFP4 experts, an exponent for each 32",
        source=SOURCE,
        store=parts,
        takes=lambda m: bool(m.batch),
        skips=skips,
        by_layer=numbered(skips),
        resident="dense" if dense else "packed",
        loaded_bias="fp32",
        needs=(7, 5),
        told=("without the packages triton and kernels, transformers dequantizes MXFP4 to bf16 while loading",),
    )


SCHEME: Final = Scheme(read=read, source=SOURCE)
