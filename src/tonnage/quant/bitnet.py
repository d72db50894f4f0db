"""BitNet b1.58: ternary weights, four to a byte, with one scale a matrix (arXiv:2402.17764)."""

from __future__ import annotations

from typing import Final

from tonnage.errors import ConfigError
from tonnage.keys import Keys
from tonnage.quant._stored import PACKED, SCALES, Matrix, Part, Recipe, Scheme, numbered, options

SOURCE: Final = (
    "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/bitnet.py "
    "BitLinear, AutoBitLinear"
)


def packed(m: Matrix) -> tuple[Part, ...]:
    """Four weights a byte along the output, and one scale."""
    return (
        Part("weight", ((m.outs[0], m.rows // 4), m.ins), "uint8", PACKED),
        Part("weight_scale", (("X", 1),), None, SCALES),
    )


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``BitNetQuantConfig``."""
    kind, mode = k.want("linear_class", "bitlinear"), k.want("quantization_mode", "offline")
    if kind not in ("bitlinear", "autobitlinear") or mode not in ("online", "offline"):
        raise ConfigError(
            f"linear_class = {kind}, quantization_mode = {mode}", key=f"{k.path}linear_class", file=k.file
        )
    k.refuse("use_rms_norm")
    k.skip("rms_norm_eps", "modules_to_not_convert")
    skips = options(k.config, "modules_to_not_convert")

    def plain(m: Matrix) -> tuple[Part, ...]:
        weight = Part("weight", (m.outs, m.ins), None, PACKED)
        return (weight,) if mode == "online" else (weight, Part("weight_scale", (("X", 1),), None, SCALES))

    return Recipe(
        method="bitnet",
        title="BitNet, " + ("four weights a byte" if kind == "bitlinear" else "unpacked, rounded while it runs"),
        source=SOURCE,
        store=packed if kind == "bitlinear" else plain,
        takes=lambda m: m.linear and not m.rows % 4,
        skips=skips,
        by_layer=numbered(skips),
        calibrated=True,
    )


SCHEME: Final = Scheme(read=read, source=SOURCE)
