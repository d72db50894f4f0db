"""EETQ: a byte for each weight, an fp16 scale for each output, biases in fp16."""

from __future__ import annotations

from typing import Final

from tonnage.keys import Keys
from tonnage.quant._stored import PACKED, SCALES, Matrix, Part, Recipe, Scheme, numbered, options

SOURCE: Final = (
    "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/eetq.py EetqLinear"
)


def parts(m: Matrix) -> tuple[Part, ...]:
    """Weights, input first, and scales."""
    return (
        Part("weight", (m.ins, m.outs), "int8", PACKED),
        Part("weight_scales", (m.outs,), "fp16", SCALES),
    )


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``EetqConfig``."""
    k.refuse("weights", "int8")
    k.skip("modules_to_not_convert")
    skips = options(k.config, "modules_to_not_convert")
    return Recipe(
        method="eetq",
        title="EETQ, 8 bit, a scale for each output",
        source=SOURCE,
        store=parts,
        skips=skips,
        by_layer=numbered(skips),
        bias="fp16",
    )


SCHEME: Final = Scheme(read=read, source=SOURCE)
