"""Quantization schemes: each maps one weight to the tensors stored for it.

A module carries the name of its ``quant_method``; ``_names.py`` has the names for ``--quant``, each of which stands for
a ``quantization_config``, so that a flag and a checkpoint are read by the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.keys import Keys
from tonnage.quant._names import ALIASES, APART, GGUF, NAMES, ON_DEMAND
from tonnage.quant._stored import Entry, Recipe, Scheme, Stored, apart, as_stored, entries, packed_modules, stored
from tonnage.registry import names, variant

MODULES: Final = {"modelopt_fp4": "modelopt"}
"""Methods whose module has another name."""

PACKAGE: Final = "tonnage.quant"


def method(config: Mapping[str, Any]) -> str:
    """The method that a ``quantization_config`` names; the oldest ones of bitsandbytes and MLX name none."""
    told = config.get("quant_method")
    if isinstance(told, str):
        return told
    if config.get("load_in_8bit") or config.get("load_in_4bit"):
        return "bitsandbytes"
    if "group_size" in config and ("bits" in config or "mode" in config):
        return "mlx"
    return "modelopt" if "quantization" in config or "quant_algo" in config else "unknown"


def recipe(
    config: Mapping[str, Any],
    *,
    file: str | None = None,
    ignored: frozenset[str] = frozenset(),
    lenient: bool = False,
    checkpoint: bool = True,
) -> Recipe:
    """How the weights of a checkpoint with this ``quantization_config`` are stored.

    Args:
        config: as written.
        file: where it was read, for messages.
        ignored: keys to pass over.
        lenient: pass over every key that is not understood.
        checkpoint: whether a checkpoint holds the weights so; else they are quantized while loading.

    Raises:
        UnsupportedError: the method, or a setting of it, is not modelled.
        ConfigError: a key is mistyped or not understood.
    """
    named = method(config)
    module = MODULES.get(named, named.replace("-", "_"))
    if module not in names(PACKAGE):
        raise UnsupportedError(
            f"the quantization method {named!r} is not modelled yet",
            key="quantization_config.quant_method", value=named, file=file,
            nearest=nearest(named, names(PACKAGE)), hint="--quant none answers as if it were dequantized",
        )  # fmt: skip
    scheme = variant(PACKAGE, module, "SCHEME", Scheme)
    keys = Keys(config, file=file, ignored=ignored, lenient=lenient, path="quantization_config.")
    keys.skip("quant_method")
    out = scheme.read(keys, checkpoint=checkpoint)
    keys.done()
    return out.but(ignored=tuple(keys.ignored)) if keys.ignored else out


def leaves_experts(model: Model, recipe: Recipe) -> bool:
    """Whether stacked experts stay as they are, since they are no linear modules."""
    if recipe.plan is not None:
        return False
    return any(m is not None and m.batch and not recipe.packs(m) for _, _, m in entries(model, by_layer=False))


def left(model: Model, recipe: Recipe) -> list[str]:
    """What is said of matrices that stay as they are, though a person may expect them packed."""
    told = []
    if leaves_experts(model, recipe):
        told.append(
            "stacked experts are no linear modules: they stay as they are (transformers 4 packed each by itself)"
        )
    if recipe.itself and any(
        # A router is small: none misses it.
        m is not None and m.role != "router" and part in m.module
        for _, _, m in entries(model, by_layer=False)
        for part in model.subclassed
    ):
        told.append(
            f"linear modules of {model.model_type}'s own class stay as they are: transformers 5 packs nn.Linear itself "
            "(transformers 4 packed them)"
        )
    return told


def called(name: str) -> Mapping[str, Any]:
    """The ``quantization_config`` that a name for ``--quant`` stands for.

    >>> called("awq")["quant_method"]
    'awq'
    """
    plain = name.lower()
    plain = ALIASES.get(plain, plain)
    if plain in NAMES:
        return NAMES[plain]
    base = ALIASES.get(plain.removesuffix("-imatrix"), plain.removesuffix("-imatrix"))
    if base in GGUF:
        extra = {"importance": True} if plain.endswith("-imatrix") else {}
        return {"quant_method": "gguf", "recipe": base, **extra}
    known = (*NAMES, *GGUF, *ALIASES, "none")
    raise InputError(
        f"unknown quantization {name!r}", key="quant", value=name, nearest=nearest(plain, known),
        hint=f"one of {', '.join(known)}",
    )  # fmt: skip


__all__ = [
    "APART",
    "GGUF",
    "NAMES",
    "ON_DEMAND",
    "Entry",
    "Recipe",
    "Scheme",
    "Stored",
    "apart",
    "as_stored",
    "called",
    "entries",
    "leaves_experts",
    "left",
    "method",
    "packed_modules",
    "recipe",
    "stored",
]
