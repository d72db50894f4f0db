"""Quanto: 8 bit with a scale a row, 4 and 2 bit in groups with a scale and a shift each, in the model's format."""

from __future__ import annotations

from typing import Final

from tonnage.errors import ConfigError
from tonnage.keys import Keys
from tonnage.quant._stored import PACKED, SCALES, ZEROS, Matrix, Part, Recipe, Scheme, numbered, options, up

SOURCE: Final = "optimum-quanto 0.2.7 nn/qmodule.py QModuleMixin, tensor/weights/qbits.py and qbytes.py"
A_BYTE: Final = {"float8": 1, "int8": 1, "int4": 2, "int2": 4}


def group_of(columns: int) -> int | None:
    """The group along the input: the largest of 128, 96, 64 and 32 that divides it; None for a whole row.

    >>> group_of(896), group_of(2880), group_of(100)
    (128, 96, None)
    """
    return next((g for g in (128, 96, 64, 32) if columns > 128 and columns % g == 0), None)


def parts(m: Matrix, kind: str) -> tuple[Part, ...]:
    """Packed values, scales and shifts, and the two scales of activations that every module has."""
    own = (Part("input_scale", (), None, SCALES), Part("output_scale", (), None, SCALES))
    one = ("X", 1)
    if A_BYTE[kind] == 1:
        form = "int8" if kind == "int8" else "fp8_e4m3"
        return (
            Part("weight._data", (m.outs, m.ins), form, PACKED),
            Part("weight._scale", (m.outs, one), None, SCALES),
            *own,
        )
    n, group = m.rows * m.columns, group_of(m.columns)
    rows = n // group if group else m.rows
    width = n // rows
    return (
        Part("weight._data", (("X", up(rows, A_BYTE[kind])), ("X", width)), "uint8", PACKED),
        Part("weight._scale", (("X", rows), one), None, SCALES),
        Part("weight._shift", (("X", rows), one), None, ZEROS),
        *own,
    )


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``QuantoConfig``."""
    kind = k.want("weights", "int8")
    if kind not in A_BYTE:
        raise ConfigError(f"weights is one of {', '.join(A_BYTE)}", key=f"{k.path}weights", value=kind, file=k.file)
    k.refuse("activations")
    k.skip("modules_to_not_convert")
    skips = options(k.config, "modules_to_not_convert")
    return Recipe(
        method="quanto",
        title=f"Quanto, {kind}",
        source=SOURCE,
        store=lambda m: parts(m, kind),
        skips=skips,
        by_layer=numbered(skips),
    )


SCHEME: Final = Scheme(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/quanto.py",
)
