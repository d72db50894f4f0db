"""torchao: int8 and float8 with a scale a row, int4 in groups with a scale and a zero point each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.errors import ConfigError, UnsupportedError
from tonnage.keys import Keys
from tonnage.quant._stored import PACKED, SCALES, ZEROS, Matrix, Part, Recipe, Scheme, numbered, options, up

SOURCE: Final = "torchao 0.18.0 quantization/quantize_/workflows: int8/int8_tensor.py, int4/int4_tensor.py, float8"
INT8: Final = ("Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig")
FLOAT8: Final = ("Float8WeightOnlyConfig", "Float8DynamicActivationFloat8WeightConfig")


def int8(m: Matrix) -> tuple[Part, ...]:
    """A byte for each weight; scale and zero point for each row."""
    rows = (m.outs, ("X", 1))
    return (
        Part("weight.qdata", (m.outs, m.ins), "int8", PACKED),
        Part("weight.scale", rows, "fp32", SCALES),
        Part("weight.zero_point", rows, "int8", ZEROS),
    )


def float8(m: Matrix) -> tuple[Part, ...]:
    """A byte for each weight, and a scale for each row."""
    return (
        Part("weight.qdata", (m.outs, m.ins), "fp8_e4m3", PACKED),
        Part("weight.scale", (m.outs, ("X", 1)), "fp32", SCALES),
    )


def int4(m: Matrix, group: int) -> tuple[Part, ...]:
    """Two weights a byte; scale and zero point of each group in the model's format."""
    groups = ((m.ins[0], up(m.columns, group)), m.outs)
    return (
        Part("weight.qdata", (m.outs, (m.ins[0], up(m.columns, 2))), "int8", PACKED),
        Part("weight.scale", groups, None, SCALES),
        Part("weight.zero_point", groups, None, ZEROS),
    )


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``TorchAoConfig``: one configuration for all linear modules."""
    given = k.config.get("quant_type")
    kind: Any = given.get("default") if isinstance(given, Mapping) and set(given) == {"default"} else None
    if not isinstance(kind, Mapping) or not isinstance(kind.get("_type"), str):
        raise UnsupportedError(
            "quant_type must have one configuration, default", key=f"{k.path}quant_type", file=k.file
        )
    name, data = kind["_type"], kind.get("_data", {})
    if not isinstance(data, Mapping):
        raise ConfigError("_data must be an object", key=f"{k.path}quant_type", file=k.file)
    inner = Keys(data, file=k.file, ignored=k.allowed, lenient=k.lenient, path=f"{k.path}quant_type.default._data.")
    k.skip("quant_type", "modules_to_not_convert", "quant_type_kwargs", "untie_embedding_weights")
    k.refuse("include_input_output_embeddings")
    group = inner.optional("group_size") or 0
    inner.skip("set_inductor_config", "version", "granularity", "weight_dtype", "activation_dtype", "mm_config",
               "layout", "act_mapping_type", "kernel_preference", "packing_format", "int4_choose_qparams_algorithm",
               "int4_tile_packed_ntile", "use_hqq", "activation_value_lb", "activation_value_ub",
               "zero_point_domain", "preserve_zero")  # fmt: skip
    if name == "Int4WeightOnlyConfig":
        packing = data.get("int4_packing_format", "plain")
        packing = packing.get("_data", "plain") if isinstance(packing, Mapping) else packing
        inner.skip("int4_packing_format")
        if not isinstance(packing, str) or packing.lower() not in ("plain", "preshuffled"):
            raise UnsupportedError(f"packing {packing!r} is not modelled yet", key=inner.path, file=k.file)
        group = group or 128
    elif name not in INT8 + FLOAT8 or group:
        raise UnsupportedError(
            f"torchao's {name} is not modelled yet", key=f"{k.path}quant_type", value=name, file=k.file
        )
    if any(f"'_type': '{kind}'" in repr(data.get("granularity")) for kind in ("PerTensor", "PerBlock", "PerGroup")):
        raise UnsupportedError("torchao is modelled by rows only", key=f"{inner.path}granularity", file=k.file)
    inner.done()
    skips = options(k.config, "modules_to_not_convert")

    def store(m: Matrix) -> tuple[Part, ...]:
        return int8(m) if name in INT8 else float8(m) if name in FLOAT8 else int4(m, group)

    return Recipe(
        method="torchao",
        title=f"torchao, {name}" + (f", groups of {group}" if group else ""),
        source=SOURCE,
        store=store,
        takes=lambda m: m.linear and not (group and m.columns % group),
        skips=skips,
        by_layer=numbered(skips),
    )


SCHEME: Final = Scheme(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/quantizers/quantizer_torchao.py",
)
