"""compressed-tensors, the format of llm-compressor: packed or plain integers, FP8, FP4, with scales by a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.errors import ConfigError, UnsupportedError
from tonnage.keys import Keys
from tonnage.quant._chosen import Chosen, assigned
from tonnage.quant._stored import (
    INDICES,
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
    "marlin-24": "int32",
}
SPARSE: Final = "sparse-24-bitmask"
OLDER: Final = (
    "2:4 sparse checkpoints were written by compressed-tensors up to 0.11; 0.20 names the formats legacy and has no "
    "code for them"
)
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
        sparse: whether two of four weights are left out, behind a mask of bits.
    """

    format: str
    bits: int
    strategy: str
    group: int = 0
    block: tuple[int, int] = (0, 0)
    symmetric: bool = True
    ordered: bool = False
    input_scale: str = "none"
    sparse: bool = False

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
        elif self.format == "marlin-24":
            out = marlin(m, self.bits, self.group)
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
            held = sparse(m, plain) if self.sparse else (Part("weight", (m.outs, m.ins), plain, PACKED),)
            out = [*held, Part("weight_scale", scales, None, SCALES)]
            if not self.symmetric:
                out.append(Part("weight_zero_point", scales, "int8", ZEROS))
        if self.ordered:
            out.append(Part("weight_g_idx", (m.ins,), "int32", ZEROS))
        if self.input_scale == "tensor":
            out.append(Part("input_scale", one, None, SCALES))
        elif self.input_scale == "global":
            out.append(Part("input_global_scale", one, "fp32", SCALES))
        return tuple(out)


def marlin(m: Matrix, bits: int, group: int) -> list[Part]:
    """A 2:4 sparse matrix in Marlin's tiles: half the values, scales, and two bits for each value's place.

    compressed-tensors 0.11.0 compressors/sparse_quantized_compressors/marlin_24.py, ``Marlin24Compressor.compress``.
    """
    letter, out = m.ins[0], m.outs[0]
    return [
        Part("weight_packed", ((letter, up(m.columns, 32)), (out, m.rows * 16 * bits // 32)), "int32", PACKED),
        Part("scale_packed", ((letter, up(m.columns, group) if group > 0 else 1), m.outs), "fp16", SCALES),
        Part("meta", ((letter, m.columns // 32), (out, m.rows * 2)), "int16", INDICES),
    ]


def sparse(m: Matrix, form: str | None) -> tuple[Part, ...]:
    """Half the values, a bit for each place, and the shape.

    compressed-tensors 0.11.0 compressors/sparse_compressors/sparse_24_bitmask.py, ``Sparse24BitMaskTensor``.
    """
    letter = m.ins[0]
    return (
        Part("compressed", (m.outs, (letter, m.columns // 2)), form, PACKED),
        Part("bitmask", (m.outs, (letter, up(m.columns, 8))), "uint8", INDICES),
        Part("shape", (("X", 2),), "int64", PACKED),
    )


def weights(
    given: Mapping[str, Any], form: str, path: str, activations: Mapping[str, Any] | None, outer: Keys
) -> Weights:
    """One group's settings, as ``QuantizationArgs`` has them."""
    k = Keys(given, file=outer.file, ignored=outer.allowed, lenient=outer.lenient, path=path)
    bits, kind = k.want("num_bits", 8), k.want("type", "int")
    group, strategy = k.optional("group_size"), k.optional("strategy", str)
    block = given.get("block_structure")
    symmetric, order = k.want("symmetric", True), given.get("actorder")
    k.refuse("scale_dtype", "torch.uint8" if form == "mxfp4-pack-quantized" else None)
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
    if form == "marlin-24" and (not symmetric or strategy not in ("group", "channel") or group not in (None, -1, 128)):
        raise ConfigError(
            "marlin-24 is symmetric, by channel or in groups of 128", key=f"{path}strategy", value=strategy
        )
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
    two_of_four = _sparsity(k)
    groups = k.config.get("config_groups")
    if not (isinstance(groups, Mapping) and groups) and two_of_four is None:
        raise ConfigError("config_groups is missing", key=f"{k.path}config_groups", file=k.file)
    value = k.config.get("transform_config")
    if value:
        raise UnsupportedError("transform_config is not modelled yet", key=f"{k.path}transform_config", file=k.file)
    k.skip(
        "config_groups", "ignore", "sparsity_config", "transform_config", "quantization_status",
        "global_compression_ratio", "version", "run_compressed", "dequantize", "use_optimized_inference",
    )  # fmt: skip
    k.refuse("kv_cache_scheme")
    form = k.want("format", "dense")
    found = [(name, _group(name, own, form, k)) for name, own in (groups or {}).items()]
    return _recipe([group for _, group in found], two_of_four, options(k.config, "ignore"))


def _group(name: str, group: Any, form: str, k: Keys) -> tuple[tuple[str, ...], Weights]:
    """The targets and the settings of one group."""
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
    if unknown := [t for t in targets if t[:1].isupper() and t != "Linear"]:
        raise UnsupportedError(f"modules of class {unknown[0]} are not modelled yet", key=path + "targets", file=k.file)
    return targets, weights(group["weights"], own if isinstance(own, str) else form, path + "weights.", inputs, k)


def _sparsity(k: Keys) -> Chosen | None:
    """Which modules are stored 2:4 sparse; None where none is."""
    value, path = k.config.get("sparsity_config"), f"{k.path}sparsity_config."
    if not value:
        return None
    if not isinstance(value, Mapping):
        raise ConfigError("sparsity_config must be an object", key=f"{k.path}sparsity_config", file=k.file)
    if value.get("format") in ("dense", "marlin-24"):
        return None
    inner = Keys(value, file=k.file, ignored=k.allowed, lenient=k.lenient, path=path)
    if inner.want("format", "") != SPARSE or inner.want("sparsity_structure", "2:4") != "2:4":
        raise UnsupportedError(
            f"sparsity_config of {value.get('format')} is not modelled: its size follows from the weights",
            key=f"{k.path}sparsity_config", value=value.get("format"), file=k.file,
        )  # fmt: skip
    inner.skip("targets", "ignore", "global_sparsity", "registry_requires_subclass")
    inner.done()
    return Chosen(targets=options(value, "targets") or ("Linear",), ignored=options(value, "ignore"))


def _recipe(
    groups: list[tuple[tuple[str, ...], Weights]], two_of_four: Chosen | None, ignored: tuple[str, ...]
) -> Recipe:
    table = {target: settings for targets, settings in groups for target in targets}
    single = len(groups) == 1 and tuple(table) == ("Linear",)
    left = Chosen(targets=ignored) if ignored else None
    named = (*table, *ignored, *(two_of_four.targets + two_of_four.ignored if two_of_four else ()))

    def settings(m: Matrix) -> Weights | None:
        if left is not None and two_of_four is not None and left.has(m):
            return None
        return groups[0][1] if single else assigned(table, m)

    def takes(m: Matrix) -> bool:
        if not (m.linear or m.batch) or m.role == "router":
            return False
        return settings(m) is not None or (two_of_four is not None and two_of_four.has(m))

    def store(m: Matrix) -> tuple[Part, ...]:
        own, thin = settings(m), two_of_four is not None and two_of_four.has(m)
        if own is None:
            return sparse(m, None)
        return own.but(sparse=thin).store(m)

    return Recipe(
        method="compressed-tensors",
        title=_title(groups, two_of_four),
        source=SOURCE,
        store=store,
        takes=takes,
        # What is left alone by quantization may be sparse: then both lists are read here.
        skips=() if two_of_four else ignored,
        adds_default=False,
        matching="exact",
        by_layer=numbered(named) or any(t.startswith("re:") for t in table),
        resident="dense",
        calibrated=True,
        told=(UNPACKED, OLDER) if two_of_four or any(w.format == "marlin-24" for _, w in groups) else (UNPACKED,),
    )


def _title(groups: list[tuple[tuple[str, ...], Weights]], two_of_four: Chosen | None) -> str:
    told = []
    for _, w in groups:
        what = {"int32": f"{w.bits} bit packed", "int8": "8 bit", "fp8_e4m3": "FP8", "uint8": "FP4"}[FORMATS[w.format]]
        by = f"groups of {w.group}" if w.group else f"a scale for each {w.strategy}"
        thin = " and 2:4 sparse" if w.format == "marlin-24" else ""
        told.append(f"{what}{thin}, {by}")
    if two_of_four is not None:
        told.append("2:4 sparse behind a mask")
    return f"compressed-tensors, {'; '.join(dict.fromkeys(told))}"


SCHEME: Final = Scheme(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/quantizers/quantizer_compressed_tensors.py",
)
