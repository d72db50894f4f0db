"""NVIDIA's Model Optimizer: FP8 with one scale a matrix, and NVFP4 in blocks of 16 with FP8 scales.

Of a matrix of ``r x c`` NVFP4 keeps ``r c / 2`` bytes, ``r c / 16`` scales of a byte, and two fp32 numbers: the scale
of the scales and that of the input.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from tonnage.errors import UnsupportedError
from tonnage.keys import Keys
from tonnage.quant._listed import KEY, algorithms
from tonnage.quant._stored import PACKED, SCALES, Matrix, Part, Recipe, Scheme, numbered, options, up

SOURCE: Final = "nvidia-modelopt 0.47.0 torch/export/quant_utils.py to_quantized_weight, get_weight_scaling_factor_2"
BLOCK: Final = 16
MIXED: Final = "MIXED_PRECISION"
TITLES: Final = {
    "FP8": "FP8, one scale a matrix",
    "MXFP8": "MXFP8, groups of 32",
    MIXED: "formats listed module by module",
}


def nvfp4(m: Matrix, *, group: int = BLOCK, inputs: bool = True) -> tuple[Part, ...]:
    """Packed values, FP8 scales of their blocks, and the two numbers of each matrix.

    >>> m = Matrix(module="q", role="attention", outs=("N", 4096), ins=("D", 4096))
    >>> [p.axes[1:] for p in nvfp4(m)][:2]
    [(('D', 2048),), (('D', 256),)]
    """
    letter, join = m.ins[0], "" if m.batch else "weight_"
    out = [
        Part("" if m.batch else "weight", (m.outs, (letter, up(m.columns, 2))), "uint8", PACKED),
        Part(f"{join}scale", (m.outs, (letter, up(m.columns, group))), "fp8_e4m3", SCALES),
        Part(f"{join}scale_2", (), "fp32", SCALES),
    ]
    return (*out, Part("input_scale", (), "fp32", SCALES)) if inputs else tuple(out)


def fp8(m: Matrix) -> tuple[Part, ...]:
    """A byte for each weight, and the scales of matrix and input."""
    return (
        Part("" if m.batch else "weight", (m.outs, m.ins), "fp8_e4m3", PACKED),
        Part("scale" if m.batch else "weight_scale", (), "fp32", SCALES),
        Part("input_scale", (), "fp32", SCALES),
    )


def mxfp8(m: Matrix) -> tuple[Part, ...]:
    """A byte for each weight and one for 32 of them."""
    letter, join = m.ins[0], "" if m.batch else "weight_"
    return (
        Part("" if m.batch else "weight", (m.outs, m.ins), "fp8_e4m3", PACKED),
        Part(f"{join}scale", (m.outs, (letter, up(m.columns, 32))), "uint8", SCALES),
    )


def by_name(algorithm: str, group: int, key: str, file: str | None) -> Callable[[Matrix], tuple[Part, ...]]:
    """How matrices are stored by an algorithm of this name.

    Raises:
        UnsupportedError: it is not modelled.
    """
    if algorithm == "FP8":
        return fp8
    if algorithm == "MXFP8":
        return mxfp8
    if algorithm in ("NVFP4", "W4A16_NVFP4"):
        return lambda m: nvfp4(m, group=group, inputs=algorithm == "NVFP4")
    raise UnsupportedError(
        f"modelopt's {algorithm or 'unnamed algorithm'} is not modelled yet", key=key, value=algorithm, file=file
    )


def listed(k: Keys) -> Callable[[Matrix], tuple[Part, ...] | None]:
    """How the matrices of ``quantized_layers`` are stored; None for one that is not on the list."""
    settings = algorithms(k)

    def store(m: Matrix) -> tuple[Part, ...] | None:
        own = settings(m)
        if own is None:
            return None
        group = own.get("group_size") or BLOCK
        return by_name(str(own.get("quant_algo", "")).upper(), group, f"{k.path}{KEY}", k.file)(m)

    return store


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``hf_quant_config.json``, as they stand in a config too."""
    inner = k.inner("quantization")
    if inner is not None:
        k.skip("producer")
        k.done()
        k = inner
    algorithm = k.want("quant_algo", "").upper()
    group = k.optional("group_size") or BLOCK
    k.skip("producer", "config_groups", "ignore", "exclude_modules", "kv_cache_quant_algo", "kv_cache_scheme")
    names = options(k.config, "ignore") + options(k.config, "exclude_modules")
    mixed = listed(k) if algorithm == MIXED else None
    one = None if mixed else by_name(algorithm, group, f"{k.path}quant_algo", k.file)

    def store(m: Matrix) -> tuple[Part, ...]:
        return (mixed(m) if mixed else None) or (one or fp8)(m)

    def takes(m: Matrix) -> bool:
        if not (m.linear or m.batch) or m.role == "router":
            return False
        return mixed is None or mixed(m) is not None

    return Recipe(
        method="modelopt",
        title=f"NVIDIA modelopt, {TITLES.get(algorithm) or f'{algorithm}, groups of {group}'}",
        source=SOURCE,
        store=store,
        takes=takes,
        skips=tuple("re:" + re.escape(n).replace(r"\*", ".*") + r"(\.|$)" for n in names),
        adds_default=False,
        matching="exact",
        by_layer=mixed is not None or numbered(names),
        calibrated=True,
        told=("transformers 5.23 loads no checkpoint of modelopt: the weights are those that other engines hold",),
    )


SCHEME: Final = Scheme(read=read, source=SOURCE)
