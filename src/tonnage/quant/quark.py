"""AMD Quark: FP8 matrices with a scale each or for each output, in fp32.

Its other formats (fp4, fp6, integers in groups) are refused: quark loads their scales in another format than the file
has, so that what lies on the device is not certain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from tonnage.errors import ConfigError, UnsupportedError
from tonnage.keys import Keys
from tonnage.quant._stored import PACKED, SCALES, Matrix, Part, Recipe, Scheme, names_of, options

SOURCE: Final = "amd-quark 0.13 quark/torch/export/nn/modules/qparamslinear_builder.py, torch/utils/pack.py PackMethod"


def parts(m: Matrix, *, by_channel: bool, static: bool) -> tuple[Part, ...]:
    """A byte for each weight and its scales.

    >>> m = Matrix(module="q", role="attention", outs=("N", 384), ins=("D", 512))
    >>> [p.axes for p in parts(m, by_channel=True, static=False)]
    [(('N', 384), ('D', 512)), (('N', 384),)]
    """
    out = [
        Part("weight", (m.outs, m.ins), "fp8_e4m3", PACKED),
        Part("weight_scale", (m.outs,) if by_channel else (), "fp32", SCALES),
    ]
    return (*out, Part("input_scale", (), "fp32", SCALES)) if static else tuple(out)


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of ``QuarkConfig``: one for all linear modules."""
    for key in ("layer_quant_config", "layer_type_quant_config", "kv_cache_quant_config"):
        if k.config.get(key):
            raise UnsupportedError(f"Quark's {key} is not modelled", key=f"{k.path}{key}", file=k.file)
    everything = k.config.get("global_quant_config")
    if not isinstance(everything, Mapping):
        raise ConfigError("global_quant_config is missing", key=f"{k.path}global_quant_config", file=k.file)
    k.skip(
        "layer_quant_config", "layer_type_quant_config", "kv_cache_quant_config", "global_quant_config", "exclude",
        "export", "algo_config", "quant_mode", "softmax_quant_spec", "version", "kv_cache_post_rope",
    )  # fmt: skip
    weight, inputs = everything.get("weight"), everything.get("input_tensors")
    if everything.get("bias") or everything.get("output_tensors"):
        raise UnsupportedError("Quark's biases and outputs are not modelled", key=f"{k.path}global_quant_config")
    scheme = weight.get("qscheme") if isinstance(weight, Mapping) and weight.get("dtype") == "fp8_e4m3" else None
    if scheme not in ("per_tensor", "per_channel"):
        told = weight.get("dtype") if isinstance(weight, Mapping) else weight
        raise UnsupportedError(
            f"Quark is modelled for fp8_e4m3 by tensor and by channel, not {told}",
            key=f"{k.path}global_quant_config.weight", value=repr(told)[:60], file=k.file,
        )  # fmt: skip
    static = _static(inputs, k)
    excluded = _excluded(options(k.config, "exclude"))
    return Recipe(
        method="quark",
        title=f"Quark, FP8 (e4m3), a scale for each {'output' if scheme == 'per_channel' else 'matrix'}",
        source=SOURCE,
        store=lambda m: parts(m, by_channel=scheme == "per_channel", static=static),
        takes=lambda m: m.linear and m.role != "router" and not excluded(m),
        adds_default=False,
        loaded_bias="fp32",
        by_layer=True,
        calibrated=True,
    )


def _static(inputs: Any, k: Keys) -> bool:
    """Whether inputs have a scale of their own in the file."""
    if inputs is None or (isinstance(inputs, Mapping) and inputs.get("is_dynamic") is True):
        return False
    if not isinstance(inputs, Mapping) or inputs.get("qscheme") != "per_tensor":
        raise UnsupportedError("static inputs of Quark are modelled by tensor", key=f"{k.path}global_quant_config")
    return True


def _excluded(names: tuple[str, ...]) -> Callable[[Matrix], bool]:
    """Patterns as ``fnmatch`` reads them."""
    return lambda m: any(fnmatchcase(name, pattern) for name in names_of(m) for pattern in names)


SCHEME: Final = Scheme(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/quantizers/quantizer_quark.py",
)
