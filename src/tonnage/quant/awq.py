"""AWQ: 4-bit groups along the input, packed along the output, with packed zero points and fp16 scales."""

from __future__ import annotations

from typing import Final

from tonnage.errors import ConfigError, UnsupportedError
from tonnage.keys import Keys
from tonnage.quant._stored import PACKED, SCALES, ZEROS, Matrix, Part, Recipe, Scheme, numbered, options, up

SOURCE: Final = "autoawq 0.2.9 awq/modules/linear/gemm.py, gemv.py, gemv_fast.py, marlin.py; gptqmodel reads gemm's"


def gemm(m: Matrix, *, bits: int, group: int) -> tuple[Part, ...]:
    """Input first, packed along the output.

    >>> m = Matrix(module="q", role="attention", outs=("N", 3584), ins=("D", 3584))
    >>> [p.axes for p in gemm(m, bits=4, group=128)][1]
    (('D', 28), ('N', 448))
    """
    out, groups = m.outs[0], m.columns // group
    return (
        Part("qweight", (m.ins, (out, m.rows * bits // 32)), "int32", PACKED),
        Part("qzeros", ((m.ins[0], groups), (out, m.rows * bits // 32)), "int32", ZEROS),
        Part("scales", ((m.ins[0], groups), m.outs), "fp16", SCALES),
    )


def gemv(m: Matrix, *, bits: int, group: int) -> tuple[Part, ...]:
    """Output first, groups padded to what the kernel reads at once."""
    pack = 32 // bits
    wide = {64: 2, 32: 4}.get(group, 1)
    zeros = up(up(m.columns // group, pack), wide) * wide
    letter = m.ins[0]
    return (
        Part("qweight", (m.outs, (letter, m.columns // pack)), "int32", PACKED),
        Part("qzeros", (m.outs, (letter, zeros)), "int32", ZEROS),
        Part("scales", (m.outs, (letter, zeros * pack)), "fp16", SCALES),
    )


def gemv_fast(m: Matrix, *, bits: int, group: int) -> tuple[Part, ...]:
    """Rows interleaved by four in 16-bit words; zero points as plain fp16 numbers, groups padded as ``gemv`` does.

    >>> m = Matrix(module="q", role="attention", outs=("N", 4096), ins=("D", 4096))
    >>> [p.axes for p in gemv_fast(m, bits=4, group=128)][:2]
    [(('N', 1024), ('D', 4096)), (('D', 32), ('N', 4096))]
    """
    pack, letter = 32 // bits, m.ins[0]
    wide = {64: 2, 32: 4}.get(group, 1)
    groups = (letter, up(up(m.columns // group, pack), wide) * wide * pack)
    return (
        Part("qweight", ((m.outs[0], m.rows // 4), (letter, m.columns // (16 // bits) * 4)), "int16", PACKED),
        Part("scales", (groups, m.outs), "fp16", SCALES),
        Part("qzeros", (groups, m.outs), "fp16", ZEROS),
    )


def marlin(m: Matrix, *, bits: int, group: int) -> tuple[Part, ...]:
    """Tiles of 16 inputs; symmetric, without zero points."""
    return (
        Part("qweight", ((m.ins[0], m.columns // 16), (m.outs[0], m.rows * 16 // 8)), "int32", PACKED),
        Part("scales", ((m.ins[0], m.columns // group), m.outs), "fp16", SCALES),
    )


LAYOUTS: Final = {"gemm": gemm, "gemv": gemv, "gemv_fast": gemv_fast, "marlin": marlin}


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``AwqConfig``."""
    bits = k.want("w_bit", 4) if "w_bit" in k.config else k.want("bits", 4)
    group = k.want("q_group_size", 128) if "q_group_size" in k.config else k.want("group_size", 128)
    version = (k.want("version", "gemm") or "gemm").lower()
    if bits != 4:
        raise UnsupportedError(f"AWQ of {bits} bits is not modelled", key=f"{k.path}bits", value=bits, file=k.file)
    if version not in LAYOUTS:
        raise UnsupportedError(
            f"AWQ's layout {version} is not modelled yet", key=f"{k.path}version", value=version, file=k.file
        )
    if k.want("zero_point", version != "marlin") is (version == "marlin"):
        raise UnsupportedError(
            "AWQ has zero points in every layout but marlin's", key=f"{k.path}zero_point", file=k.file
        )
    if (group != -1 and group < 32) or (version.startswith("gemv") and group not in (32, 64, 128)):
        raise ConfigError(f"group_size = {group}", key=f"{k.path}group_size", value=group, file=k.file)
    k.refuse("do_fuse")
    k.refuse("modules_to_fuse")
    k.skip("modules_to_not_convert", "backend", "fuse_max_seq_len", "exllama_config", "format", "desc_act", "sym")
    skips = options(k.config, "modules_to_not_convert")
    layout = LAYOUTS[version]

    def takes(m: Matrix) -> bool:
        return m.role != "router" and not (m.rows % 8 or m.columns % (group if group > 0 else 8))

    return Recipe(
        method="awq",
        title=f"AWQ, {bits} bit, " + (f"groups of {group}" if group > 0 else "one group a column"),
        source=SOURCE,
        store=lambda m: layout(m, bits=bits, group=group if group > 0 else m.columns),
        takes=takes,
        skips=skips,
        adds_default=True,
        by_layer=numbered(skips),
        dtype="fp16",
        calibrated=True,
    )


SCHEME: Final = Scheme(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/awq.py",
)
