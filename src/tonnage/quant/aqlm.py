"""AQLM: groups of weights as indices into codebooks, and a scale for each output (arXiv:2401.06118)."""

from __future__ import annotations

from typing import Final

from tonnage.errors import ConfigError
from tonnage.keys import Keys
from tonnage.quant._stored import CODES, INDICES, SCALES, Matrix, Part, Recipe, Scheme, numbered, options

SOURCE: Final = "aqlm 1.1.7 aqlm/inference.py QuantizedLinear, aqlm/utils.py get_int_dtype"


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``AqlmConfig``."""
    ins, outs = k.want("in_group_size", 8), k.want("out_group_size", 1)
    books, bits = k.want("num_codebooks", 1), k.want("nbits_per_codebook", 16)
    if min(ins, outs, books) < 1 or not 1 <= bits <= 24:
        raise ConfigError("sizes of AQLM must be positive, codebooks of 24 bits at most", key=k.path, file=k.file)
    k.skip("linear_weights_not_to_quantize")
    skips = options(k.config, "linear_weights_not_to_quantize")
    index = "int8" if bits <= 8 else "int16" if bits <= 16 else "int32"
    one = ("X", 1)

    def store(m: Matrix) -> tuple[Part, ...]:
        rows = (m.outs[0], m.rows // outs)
        return (
            Part("codebooks", (("X", books), ("X", 2**bits), ("X", outs), ("X", ins)), "fp16", CODES),
            Part("codes", (rows, (m.ins[0], m.columns // ins), ("X", books)), index, INDICES),
            Part("scales", (rows, one, one, one), "fp16", SCALES),
        )

    modules = tuple(n.removesuffix(".weight") for n in skips)
    return Recipe(
        method="aqlm",
        title=f"AQLM, {books} codebook{'s' if books > 1 else ''} of {bits} bit for {outs} x {ins} weights",
        source=SOURCE,
        store=store,
        takes=lambda m: m.linear and not (m.rows % outs or m.columns % ins),
        skips=modules,
        adds_default=None,
        by_layer=numbered(modules),
        calibrated=True,
    )


SCHEME: Final = Scheme(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/aqlm.py",
)
