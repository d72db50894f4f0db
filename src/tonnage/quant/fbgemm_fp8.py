"""FP8 by FBGEMM: one scale a row, biases in fp32."""

from __future__ import annotations

from typing import Final

from tonnage.keys import Keys
from tonnage.quant._stored import PACKED, SCALES, Matrix, Part, Recipe, Scheme, numbered, options

SOURCE: Final = (
    "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/fbgemm_fp8.py "
    "FbgemmFp8Linear, FbgemmFp8Llama4TextExperts"
)


def parts(m: Matrix) -> tuple[Part, ...]:
    """Weights, a scale for each output, and the upper bound of the input's scale."""
    return (
        Part("" if m.batch else "weight", (m.outs, m.ins), "fp8_e4m3", PACKED),
        Part("scale" if m.batch else "weight_scale", (m.outs, ("X", 1)), "fp32", SCALES),
        Part("input_scale_ub", (("X", 1),), "fp32", SCALES, shared=True),
    )


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``FbgemmFp8Config``."""
    k.skip("activation_scale_ub", "modules_to_not_convert")
    skips = options(k.config, "modules_to_not_convert")
    return Recipe(
        method="fbgemm_fp8",
        title="FP8 (e4m3) by FBGEMM, one scale a row",
        source=SOURCE,
        store=parts,
        skips=skips,
        by_layer=numbered(skips),
        bias="fp32",
        dtype="bf16",
    )


SCHEME: Final = Scheme(read=read, source=SOURCE)
