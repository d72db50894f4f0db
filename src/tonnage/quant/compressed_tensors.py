"""compressed-tensors, the format of llm-compressor: packed or plain integers, FP8, FP4, with scales by a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.errors import ConfigError, UnsupportedError
from tonnage.keys import Keys
from tonnage.quant._stored import (
    PACKED,
    SCALES,
    ZEROS,
    Matrix,
    Part,
    Recipe,
    Scheme,
    grid,
    numbered,
    options,
    up,
)
from tonnage.record import Record
from tonnage.tensors import Axes

SOURCE: Final = (
    "compressed-tensors 0.20.0 compressors/*/base.py compress, quantization/lifecycle/initialize.py initialize_qparams"
)
FORMATS: Final = {
    "pack-quantized": "int32",
    "int-quantized": "int8",
    "naive-quantized": "",
    "float-quantized": "fp8_e4m3",
    "nvfp4-pack-quantized": "uint8",
    "mxfp4-pack-quantized": "uint8",
}
UNPACKED: Final = (
    "compressed-tensors unpacks its weights to 16 bit in transformers' first forward pass, and they stay so; other "
    "engines run them packed"
)


class Weights(Record):
    """How one group of modules is stored.

    Args:
        format: of the file.
        bits: of a weight.
        strategy: what shares a scale: "tensor", "channel", "group", "tensor_group", "block".
        group: weights that share one, along the input.
        block: rows and columns of a block.
        symmetric: whether there are no zero points.
        ordered: whether the groups' members are listed (activation order).
        input_scale: shape of the input's own scale: "none", "tensor" or "global".
    """

    format: str
    bits: int
    strategy: str
    group: int = 0
    block: tuple[int, int] = (0, 0)
    symmetric: bool = True
    ordered: bool = False
    input_scale: str = "none"

    def scales(self, m: Matrix) -> Axes:
        """Axes of the scales."""
        if self.strategy == "tensor":
            return (("X", 1),)
        if self.strategy == "channel":
            return (m.outs, ("X", 1))
        if self.strategy == "block":
            return grid(m, *self.block)
        return (m.outs, (m.ins[0], up(m.columns, self.group)))

    def store(self, m: Matrix) -> tuple[Part, ...]:
        """The tensors stored for one matrix."""
        one, letter, scales = (("X", 1),), m.ins[0], self.scales(m)
        if self.format in ("nvfp4-pack-quantized", "mxfp4-pack-quantized"):
            narrow = "fp8_e4m3" if self.format[0] == "n" else "uint8"
            out = [
                Part("weight_packed", (m.outs, (letter, up(m.columns, 2))), "uint8", PACKED),
                Part("weight_scale", scales, narrow, SCALES),
            ]
            if self.format[0] == "n":
                out.append(Part("weight_global_scale", one, "fp32", SCALES))
        elif self.format == "pack-quantized":
            words = up(m.columns * self.bits, 32)
            out = [
                Part("weight_packed", (m.outs, (letter, words)), "int32", PACKED),
                Part("weight_scale", scales, None, SCALES),
                Part("weight_shape", (("X", 2),), "int64", PACKED),
            ]
            if not self.symmetric:
                zeros = ((m.outs[0], up(m.rows * self.bits, 32)), *scales[1:])
                out.append(Part("weight_zero_point", zeros, "int32", ZEROS))
        else:
            plain = FORMATS[self.format] or "int8"
            out = [Part("weight", (m.outs, m.ins), plain, PACKED), Part("weight_scale", scales, None, SCALES)]
            if not self.symmetric:
                out.append(Part("weight_zero_point", scales, "int8", ZEROS))
        if self.ordered:
            out.append(Part("weight_g_idx", (m.ins,), "int32", ZEROS))
        if self.input_scale == "tensor":
            out.append(Part("input_scale", one, None, SCALES))
        elif self.input_scale == "global":
            out.append(Part("input_global_scale", one, "fp32", SCALES))
        return tuple(out)


def weights(
    given: Mapping[str, Any], form: str, path: str, activations: Mapping[str, Any] | None, outer: Keys
) -> Weights:
    """One group's settings, as ``QuantizationArgs`` has them."""
    k = Keys(given, file=outer.file, ignored=outer.allowed, lenient=outer.lenient, path=path)
    bits, kind = k.want("num_bits", 8), k.want("type", "int")
    group, strategy = k.optional("group_size"), k.optional("strategy", str)
    block = given.get("block_structure")
    symmetric, order = k.want("symmetric", True), given.get("actorder")
    k.refuse("scale_dtype")
    k.skip("block_structure", "actorder", "dynamic", "observer", "observer_kwargs", "zp_dtype")
    k.done()
    outer.ignored += k.ignored
    if strategy is None:
        strategy = "group" if group and group > 0 else "channel" if group == -1 else "tensor"
    if form == "dense" or form not in FORMATS:
        raise UnsupportedError(
            f"compressed-tensors' format {form} is not modelled yet", key=path + "format", value=form
        )
    if strategy not in ("tensor", "channel", "group", "tensor_group", "block"):
        raise UnsupportedError(f"the strategy {strategy} is not modelled yet", key=f"{path}strategy", value=strategy)
    if strategy in ("group", "tensor_group") and not (group and group > 0):
        raise ConfigError("groups need a group_size", key=f"{path}group_size", value=group)
    sized = isinstance(block, list | tuple) and len(block) == 2 and all(isinstance(n, int) and n > 0 for n in block)
    if strategy == "block" and not sized:
        raise ConfigError("blocks need a block_structure", key=f"{path}block_structure", value=repr(block)[:60])
    if not 1 <= bits <= 8:
        raise ConfigError(f"num_bits = {bits}", key=f"{path}num_bits", value=bits)
    if form == "naive-quantized":
        form = "float-quantized" if kind == "float" else "int-quantized"
    return Weights(
        format=form,
        bits=bits,
        strategy=strategy,
        group=group or 0,
        block=tuple(block) if strategy == "block" and block is not None else (0, 0),
        symmetric=symmetric,
        ordered=order in ("group", True),
        input_scale=_input_scale(activations, form),
    )


def _input_scale(activations: Mapping[str, Any] | None, form: str) -> str:
    if activations is None or activations.get("dynamic") is True:
        return "none"
    return "global" if form == "nvfp4-pack-quantized" else "tensor"


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``CompressedTensorsConfig``."""
    form = k.want("format", "dense")
    groups = k.config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise ConfigError("config_groups is missing", key=f"{k.path}config_groups", file=k.file)
    for key in ("sparsity_config", "transform_config"):
        value = k.config.get(key)
        if value and not (isinstance(value, Mapping) and value.get("format") == "dense"):
            raise UnsupportedError(f"{key} is not modelled yet", key=f"{k.path}{key}", file=k.file)
    k.skip(
        "config_groups", "ignore", "sparsity_config", "transform_config", "quantization_status",
        "global_compression_ratio", "version", "run_compressed", "dequantize", "use_optimized_inference",
    )  # fmt: skip
    k.refuse("kv_cache_scheme")
    found: list[tuple[tuple[str, ...], Weights]] = []
    for name, group in groups.items():
        path = f"{k.path}config_groups.{name}."
        if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
            raise ConfigError("a group needs weights", key=path + "weights", file=k.file)
        inputs = group.get("input_activations")
        if inputs is not None and not isinstance(inputs, Mapping):
            raise ConfigError("input_activations must be an object", key=path + "input_activations", file=k.file)
        if group.get("output_activations"):
            raise UnsupportedError("output_activations are not modelled yet", key=path + "output_activations")
        own = group.get("format")
        targets = options(group, "targets") or ("Linear",)
        settings = weights(group["weights"], own if isinstance(own, str) else form, path + "weights.", inputs, k)
        found.append((targets, settings))
    if len(found) > 1 or found[0][0] != ("Linear",):
        raise UnsupportedError(
            "groups for some modules only are not modelled yet", key=f"{k.path}config_groups", file=k.file
        )
    settings = found[0][1]
    ignored = options(k.config, "ignore")
    what = {"int32": f"{settings.bits} bit packed", "int8": "8 bit", "fp8_e4m3": "FP8", "uint8": "FP4"}
    by = f"groups of {settings.group}" if settings.group else f"a scale for each {settings.strategy}"
    return Recipe(
        method="compressed-tensors",
        title=f"compressed-tensors, {what[FORMATS[settings.format]]}, {by}",
        source=SOURCE,
        store=settings.store,
        takes=lambda m: (m.linear or bool(m.batch)) and m.role != "router",
        skips=ignored,
        adds_default=False,
        matching="exact",
        by_layer=numbered(ignored),
        resident="dense",
        calibrated=True,
        told=(UNPACKED,),
    )


SCHEME: Final = Scheme(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/quantizers/quantizer_compressed_tensors.py",
)
