"""HIGGS: 2 to 4 bits in vectors of two, a scale for each group, and two small tables for each matrix."""

from __future__ import annotations

from typing import Final

from tonnage.errors import ConfigError, UnsupportedError
from tonnage.keys import Keys
from tonnage.quant._stored import CODES, PACKED, SCALES, Matrix, Part, Recipe, Scheme, numbered, options

SOURCE: Final = (
    "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/higgs.py HiggsLinear"
)


def parts(m: Matrix, *, bits: int, group: int) -> tuple[Part, ...]:
    """Words of 16 bit, scales and tables.

    >>> m = Matrix(module="q", role="attention", outs=("N", 4096), ins=("D", 4096))
    >>> [p.axes for p in parts(m, bits=4, group=256)][:2]
    [(('N', 1024), ('D', 4096)), (('N', 4096), ('D', 16))]
    """
    n = 2**bits
    return (
        Part("weight", ((m.outs[0], m.rows * bits // 16), m.ins), "int16", PACKED),
        Part("scales", (m.outs, (m.ins[0], m.columns // group)), None, SCALES),
        Part("tables", (("X", n),), None, CODES),
        Part("tables2", (("X", n * n * 2),), None, CODES),
    )


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``HiggsConfig``."""
    bits, group, block = k.want("bits", 4), k.want("group_size", 256), k.want("hadamard_size", 512)
    if bits not in (2, 3, 4) or group not in (64, 128, 256) or block % group:
        raise ConfigError(
            f"HIGGS has no {bits} bits in groups of {group}", key=f"{k.path}bits", value=bits, file=k.file
        )
    k.skip("p", "tune_metadata", "modules_to_not_convert")
    skips = options(k.config, "modules_to_not_convert")

    def store(m: Matrix) -> tuple[Part, ...]:
        if m.columns % block:
            raise UnsupportedError(
                f"{m.module} has {m.columns} inputs, no multiple of hadamard_size = {block}: not modelled",
                key=f"{k.path}hadamard_size", value=block, file=k.file,
            )  # fmt: skip
        return parts(m, bits=bits, group=group)

    return Recipe(
        method="higgs",
        title=f"HIGGS, {bits} bit, groups of {group}",
        source=SOURCE,
        store=store,
        skips=skips,
        by_layer=numbered(skips),
    )


SCHEME: Final = Scheme(read=read, source=SOURCE)
