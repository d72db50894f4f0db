"""MLX: groups along the input with a scale and a bias each; tables of tokens are packed as matrices are.

A config of MLX names no method, but ``group_size`` and ``bits``. Settings of single modules (``"path": {...}``) stand
in the same mapping.

Follows ``nn.quantize`` and ``mx.quantize`` of ml-explore/mlx 0.32.4 and mlx_lm/utils.py ``quantize_model`` of
ml-explore/mlx-lm 0.32.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.errors import ConfigError, UnsupportedError
from tonnage.keys import Keys
from tonnage.quant._stored import KEPT, PACKED, SCALES, ZEROS, Entry, Part, Recipe, Scheme, Stored, entries
from tonnage.tensors import Axes, Tensor

SOURCE: Final = "https://github.com/ml-explore/mlx-lm/blob/v0.32.0/mlx_lm/utils.py quantize_model"

BITS: Final = (2, 3, 4, 5, 6, 8)
GROUPS: Final = (32, 64, 128)
"""What ``mx.quantize`` takes."""
MODES: Final = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}
"""Groups of formats with a byte for a scale and no bias, and bits."""
ROUTERS: Final = (
    "qwen3_moe", "qwen3_next", "qwen3_5_moe_text", "granitemoe", "granitemoehybrid", "lfm2_moe", "afmoe", "jamba",
    "minimax_m2", "mellum", "gpt_oss", "kimi_linear", "gemma4_text",
)  # fmt: skip
"""Models whose routers are packed in 8 bits, groups of 64 (``quant_predicate``)."""
BARE: Final = ("deepseek", "glm4_moe", "dots", "minimax")
"""Models whose routers are bare arrays, which stay: what their ``model_type`` begins with."""


def setting(text: Mapping[str, Any], k: Keys) -> tuple[int, int, str]:
    """Bits, group and mode.

    Raises:
        UnsupportedError: a combination that ``mx.quantize`` refuses.
    """
    mode = text.get("mode", "affine")
    if mode in MODES:
        group, bits = MODES[mode]
        return text.get("bits", bits), text.get("group_size", group), mode
    bits, group = text.get("bits", 4), text.get("group_size", 64)
    if mode != "affine" or bits not in BITS or group not in GROUPS:
        raise UnsupportedError(
            f"MLX packs no {bits} bits in groups of {group} ({mode})", key=f"{k.path}bits", value=bits, file=k.file,
            hint="2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128",
        )  # fmt: skip
    return bits, group, mode


def packed(axes: Axes, bits: int, group: int, mode: str) -> tuple[Part, ...]:
    """What is stored for a matrix; words of 32 bits hold the values.

    >>> [p.axes[1][1] for p in packed((("N", 384), ("D", 512)), 4, 64, "affine")]
    [64, 8, 8]
    """
    *outer, (letter, columns) = axes
    outs = tuple(outer)
    words = (*outs, (letter, columns * bits // 32))
    groups = (*outs, (letter, columns // group))
    if mode != "affine":
        return Part("weight", words, "int32", PACKED), Part("scales", groups, "uint8", SCALES)
    return (
        Part("weight", words, "int32", PACKED), Part("scales", groups, None, SCALES),
        Part("biases", groups, None, ZEROS),
    )  # fmt: skip


def plan(model: Model, bits: int, group: int, mode: str, apart: Mapping[str, Any], k: Keys) -> Iterator[Stored]:
    """The tensors of the whole model."""
    for times, t, m in entries(model, by_layer=bool(apart)):
        own = _own(model, (times, t, m), (bits, group, mode), apart, k)
        flat = t.axes if m is None else (*m.batch, m.outs, m.ins)
        if own is None or flat[-1][1] % own[1]:
            yield times, t, KEPT
            continue
        module = t.name.removesuffix(".weight")
        for part in packed(flat, *own):
            yield times, Tensor(f"{module}.{part.name}", part.axes, t.role, layer=t.layer, dtype=part.format), part.kind


def _own(
    model: Model, entry: Entry, usual: tuple[int, int, str], apart: Mapping[str, Any], k: Keys
) -> tuple[int, int, str] | None:
    """Bits, group and mode of a tensor; None for what stays."""
    _, t, m = entry
    table = m is None and t.role == "embedding" and len(t.shape) == 2
    if t.alias_of is not None or t.role == "buffer" or (m is None and not table):
        return None
    said = next((v for path, v in apart.items() if t.name.removesuffix(".weight").endswith(path)), None)
    if said is False:
        return None
    if isinstance(said, Mapping):
        return setting(said, k)
    if t.role == "router":
        if model.model_type.startswith(BARE):
            return None
        return (8, 64, "affine") if model.model_type in ROUTERS else usual
    return usual


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of a config's ``quantization``."""
    apart = {key: value for key, value in k.config.items() if isinstance(value, Mapping | bool)}
    k.skip("group_size", "bits", "mode", *apart)
    if not any(isinstance(k.config.get(key), int) for key in ("bits", "group_size")) and "mode" not in k.config:
        raise ConfigError("neither bits nor group_size", key=f"{k.path}bits", file=k.file)
    bits, group, mode = setting(k.config, k)
    return Recipe(
        method="mlx",
        title=f"MLX, {bits} bit, groups of {group}" + ("" if mode == "affine" else f", {mode}"),
        source=SOURCE,
        by_layer=bool(apart),
        store=lambda m: packed((*m.batch, m.outs, m.ins), bits, group, mode),
        plan=lambda model: plan(model, bits, group, mode, apart, k),
    )


SCHEME: Final = Scheme(read=read, source=SOURCE)
