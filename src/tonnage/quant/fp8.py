"""FP8 in blocks (DeepSeek-V3) or with one scale a matrix: every linear module and the stacked experts.

Of a matrix of ``r x c`` there are ``r c`` bytes and ``ceil(r / 128) ceil(c / 128)`` scales in fp32.
"""

from __future__ import annotations

from typing import Final

from tonnage.errors import ConfigError
from tonnage.keys import Keys
from tonnage.quant._listed import KEY
from tonnage.quant._stored import PACKED, SCALES, Matrix, Part, Recipe, Scheme, grid, numbered, options, up
from tonnage.quant.modelopt import listed

SOURCE: Final = (
    "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/finegrained_fp8.py "
    "FP8Linear, FP8Experts"
)


def fp4(m: Matrix, scale: str) -> tuple[Part, ...]:
    """Experts of DeepSeek-V4: two values a byte, a number of the format ``scale`` for 32 of them."""
    letter = m.ins[0]
    return (
        Part("", (m.outs, (letter, up(m.columns, 2))), "int8", PACKED),
        Part("scale_inv", (m.outs, (letter, up(m.columns, 32))), scale, SCALES),
    )


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``FineGrainedFP8Config``."""
    block = k.config.get("weight_block_size", [128, 128])
    k.skip("weight_block_size", "fmt", "modules_to_not_convert", "ignored_layers")
    whole = isinstance(block, list | tuple) and len(block) == 2 and all(isinstance(n, int) and n > 0 for n in block)
    if block is not None and not whole:
        raise ConfigError(
            "weight_block_size must be two positive numbers", key=f"{k.path}weight_block_size", file=k.file
        )
    scale = {"float": "fp32", "ue8m0": "fp8_e8m0"}.get(k.want("scale_fmt", "float"))
    if scale is None:
        raise ConfigError("scale_fmt must be float or ue8m0", key=f"{k.path}scale_fmt", file=k.file)
    static = k.want("activation_scheme", "dynamic").lower() == "static"
    narrow = k.want("expert_dtype", "fp8") == "fp4"
    k.refuse("expert_dtype", "fp8", "fp4")
    # Model Optimizer repacks DeepSeek-V4's experts and leaves the rest as it was.
    own = listed(k) if k.config.get(KEY) is not None else None
    if own is not None:
        k.skip(
            "quant_algo", "moe_quant_algo", "kv_cache_quant_algo", "producer", "config_groups", "group_size", "ignore"
        )
    k.refuse("modules_to_convert")
    k.refuse("kv_cache_scheme")
    dense = k.want("dequantize", False)
    skips = options(k.config, "modules_to_not_convert") or options(k.config, "ignored_layers")
    rows, columns = block if block is not None else (0, 0)

    def store(m: Matrix) -> tuple[Part, ...]:
        if own is not None and (repacked := own(m)) is not None:
            return repacked
        if narrow and m.batch:
            return fp4(m, scale)
        out = [Part("" if m.batch else "weight", (m.outs, m.ins), "fp8_e4m3", PACKED)]
        axes = grid(m, rows, columns) if block is not None or m.batch else ()
        out.append(Part("scale_inv" if m.batch else "weight_scale_inv", axes, scale, SCALES))
        if static:
            out.append(Part("activation_scale", m.batch[:1], "fp32", SCALES, shared=True))
        return tuple(out)

    return Recipe(
        method="fp8",
        title="FP8 (e4m3), "
        + (f"a scale for each {rows} x {columns}" if block is not None else "one scale a matrix")
        + (", experts in FP4" if narrow else ""),
        source=SOURCE,
        store=store,
        takes=lambda m: m.linear or (bool(m.batch) and not m.biased),
        skips=skips,
        by_layer=own is not None or numbered(skips),
        resident="dense" if dense else "packed",
        needs=(8, 9),
    )


SCHEME: Final = Scheme(read=read, source=SOURCE)
