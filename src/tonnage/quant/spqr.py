"""SpQR: tiles of 3-bit weights in 64-bit words, outliers as sparse values, and the shapes that its config lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tonnage.errors import ConfigError
from tonnage.keys import Keys
from tonnage.quant._stored import INDICES, PACKED, Matrix, Part, Recipe, Scheme, options

SOURCE: Final = "spqr_quant 0.2.0 spqr_quant/inference.py QuantizedLinear.create_placehodler"
TENSORS: Final = {
    "dense_weights": ("int64", PACKED),
    "row_offsets": ("int32", INDICES),
    "col_vals": ("int32", PACKED),
    "in_perm": ("int32", INDICES),
}
"""Tensors of a matrix: format, and what they are. A value and its column share 32 bits in ``col_vals``."""


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``SpQRConfig``: sizes follow from the outliers that were found, so each is listed."""
    shapes = k.config.get("shapes")
    k.skip("shapes", "modules_to_not_convert", "beta1", "beta2")
    k.refuse("bits", 3)
    if not isinstance(shapes, Mapping) or not shapes:
        raise ConfigError("shapes is missing", key=f"{k.path}shapes", file=k.file)
    for name, n in shapes.items():
        if not isinstance(n, int) or isinstance(n, bool) or n < 0:
            raise ConfigError(f"{k.path}shapes.{name} must be a number", key=f"{k.path}shapes", value=n, file=k.file)

    def store(m: Matrix) -> tuple[Part, ...]:
        return tuple(
            Part(name, (("X", shapes.get(f"{m.module}.{name}.shape", 0)),), form, kind)
            for name, (form, kind) in TENSORS.items()
        )

    return Recipe(
        method="spqr",
        title="SpQR, 3 bit and outliers",
        source=SOURCE,
        store=store,
        takes=lambda m: m.linear and f"{m.module}.dense_weights.shape" in shapes,
        skips=options(k.config, "modules_to_not_convert"),
        adds_default=False,
        by_layer=True,
        calibrated=True,
    )


SCHEME: Final = Scheme(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/spqr.py",
)
