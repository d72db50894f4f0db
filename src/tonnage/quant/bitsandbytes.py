"""bitsandbytes: 8-bit rows with a scale each, and 4-bit blocks of 64 whose scales may be quantized again.

Of ``n`` elements, 4 bit keeps ``n / 2`` bytes, ``n / 64`` scales in fp32 and the 16 values of its code for each matrix
(arXiv:2305.14314). With double quantization a scale is one byte, 256 of them share an fp32 scale, and their mean is
kept beside them; the 256 values of their code are one tensor for the whole process when weights are quantized while
loading, and one for each matrix when they come from a checkpoint.
"""

from __future__ import annotations

from typing import Final

from tonnage.errors import UnsupportedError
from tonnage.keys import Keys
from tonnage.quant._stored import CODES, PACKED, SCALES, Matrix, Part, Recipe, Scheme, numbered, options, up

SOURCE: Final = "bitsandbytes 0.50.2 functional.py quantize_4bit, nn/modules.py Linear4bit and Linear8bitLt"
BLOCK: Final = 64
NESTED: Final = 256


def four_bit(m: Matrix, *, double: bool, loaded: bool) -> tuple[Part, ...]:
    """Packed values, scales and codes of one matrix.

    >>> m = Matrix(module="q", role="attention", outs=("N", 384), ins=("D", 512))
    >>> [p.axes[0][1] * p.axes[1][1] for p in four_bit(m, double=False, loaded=False)]
    [98304, 3072, 16]
    """
    n = m.rows * m.columns
    blocks = up(n, BLOCK)
    one = ("X", 1)
    parts = (
        Part("weight", (("X", up(n, 2)), one), "uint8", PACKED),
        Part("weight.absmax", (("X", blocks), one), "uint8" if double else "fp32", SCALES),
        Part("weight.quant_map", (("X", 16), one), "fp32", CODES),
    )
    if not double:
        return parts
    nested = (
        Part("weight.nested_absmax", (("X", up(blocks, NESTED)), one), "fp32", SCALES),
        Part("weight.nested_offset", (one,), "fp32", SCALES),
    )
    code = (Part("weight.nested_quant_map", (("X", NESTED),), "fp32", CODES),) if loaded else ()
    return parts + nested + code


def eight_bit(m: Matrix) -> tuple[Part, ...]:
    """A byte for each weight, and a scale in fp32 for each row."""
    return (
        Part("weight", (m.outs, m.ins), "int8", PACKED),
        Part("SCB", (m.outs,), "fp32", SCALES),
    )


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``BitsAndBytesConfig``."""
    eight = k.want("load_in_8bit", False)
    four = k.want("load_in_4bit", False)
    if eight == four:
        raise UnsupportedError(
            "bitsandbytes needs one of load_in_8bit and load_in_4bit", key=f"{k.path}load_in_4bit", file=k.file
        )
    k.skip("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage", "llm_int8_threshold")
    k.refuse("llm_int8_has_fp16_weight")
    k.refuse("llm_int8_enable_fp32_cpu_offload")
    double = k.want("bnb_4bit_use_double_quant", False)
    kind = k.want("bnb_4bit_quant_type", "fp4")
    if kind not in ("fp4", "nf4"):
        raise UnsupportedError(f"{kind} is no type of bitsandbytes", key=f"{k.path}bnb_4bit_quant_type", file=k.file)
    k.skip("llm_int8_skip_modules")
    skips = options(k.config, "llm_int8_skip_modules")

    def store(m: Matrix) -> tuple[Part, ...]:
        return eight_bit(m) if eight else four_bit(m, double=double, loaded=checkpoint)

    def takes(m: Matrix) -> bool:
        return m.linear or (m.transposed and not m.batch)

    title = "8 bit" if eight else f"{kind} in blocks of {BLOCK}" + (", scales quantized again" if double else "")
    return Recipe(
        method="bitsandbytes",
        title=f"bitsandbytes, {title}",
        source=SOURCE,
        store=store,
        takes=takes,
        itself=True,
        skips=skips,
        by_layer=numbered(skips),
        trains="unpacks" if four else "multiplies bytes",
        nested=BLOCK if four and double else 0,
    )


SCHEME: Final = Scheme(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/bitsandbytes.py",
)
