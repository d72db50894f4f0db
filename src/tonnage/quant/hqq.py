"""HQQ: groups along the input with a scale and a zero point each, in the format of computation."""

from __future__ import annotations

from typing import Final

from tonnage.errors import ConfigError, UnsupportedError
from tonnage.keys import Keys
from tonnage.quant._stored import PACKED, SCALES, ZEROS, Matrix, Part, Recipe, Scheme, numbered, options, up

SOURCE: Final = "hqq 0.2.8 core/quantize.py Quantizer.quantize, core/bitpack.py BitPack"
A_BYTE: Final = {8: 1, 4: 2, 2: 4, 1: 8}
"""Values that a byte takes; 3 bit puts ten into 32."""


def parts(m: Matrix, *, bits: int, group: int | None, axis: int = 1) -> tuple[Part, ...]:
    """Packed groups, and a scale and a zero point for each.

    >>> m = Matrix(module="q", role="attention", outs=("N", 384), ins=("D", 512))
    >>> [p.axes[0][1] for p in parts(m, bits=3, group=64)]
    [308, 3072, 3072]
    """
    n = m.rows * m.columns
    width = group or (m.columns if axis else m.rows)
    rows = n // width
    # Packing halves (or quarters, ...) the first dimension, which is the group's own where groups are columns.
    first, second = (rows, width) if axis else (width, rows)
    packed = up(first, 10) if bits == 3 else up(first, A_BYTE[bits])
    one = ("X", 1)
    return (
        Part("W_q", (("X", packed), ("X", second)), "int32" if bits == 3 else "uint8", PACKED),
        Part("meta.scale", (("X", rows), one), None, SCALES),
        Part("meta.zero", (("X", rows), one), None, ZEROS),
    )


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``HqqConfig``: those of all layers."""
    outer = k.inner("quant_config")
    if outer is None:
        raise ConfigError("quant_config is missing", key=f"{k.path}quant_config", file=k.file)
    inner = outer.inner("weight_quant_params")
    if inner is None:
        raise UnsupportedError("HQQ with settings for each layer is not modelled yet", key=outer.path, file=k.file)
    bits, group = inner.want("nbits", 4), inner.optional("group_size")
    axis = inner.want("axis", 1)
    if bits not in (*A_BYTE, 3) or axis not in (0, 1):
        raise UnsupportedError(f"HQQ of {bits} bits is not modelled", key=f"{inner.path}nbits", value=bits, file=k.file)
    inner.refuse("view_as_float")
    inner.skip("channel_wise", "optimize", "round_zero")
    inner.done()
    for key in ("scale_quant_params", "zero_quant_params", "offload_meta"):
        outer.refuse(key)
    outer.done()
    k.skip("skip_modules")
    skips = options(k.config, "skip_modules") or ("lm_head",)

    def takes(m: Matrix) -> bool:
        return m.linear and not (group and m.rows * m.columns % group)

    return Recipe(
        method="hqq",
        title=f"HQQ, {bits} bit, " + (f"groups of {group}" if group else "one group a row"),
        source=SOURCE,
        store=lambda m: parts(m, bits=bits, group=group, axis=axis),
        takes=takes,
        skips=skips,
        by_layer=numbered(skips),
    )


SCHEME: Final = Scheme(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/hqq.py",
)
