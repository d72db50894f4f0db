"""Bytes to store a model and to load it: by plain format, by quantization scheme, and as a training checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tonnage import quant
from tonnage.arch.model import Model
from tonnage.errors import TonnageError
from tonnage.formats import FORMATS, Format, storage_format
from tonnage.memory.weights import bytes_of, is_parameter, shares, stored, total
from tonnage.tensors import numel

PLAIN: Final = ("fp32", "bf16", "fp16", "fp8_e4m3", "int8")
"""Formats in which one element is one number."""

TRAINING: Final = (
    ("adamw, fp32", "fp32", 0),
    ("adamw, bf16", "bf16", 0),
    ("adamw, bf16 with master weights", "bf16", 4),
)
"""Training checkpoints: their name, the format of the weights, and bytes of a parameter's master weight.

AdamW's two moments have the format of the weights, or that of the master weights where there are some.
"""


USUAL: Final = frozenset(
    (
        "fp32",
        "bf16",
        "checkpoint",
        "bnb-int8",
        "nf4",
        "gptq-int4",
        "awq-int4",
        "fp8",
        "q8_0",
        "q6_k",
        "q5_k_m",
        "q4_k_m",
    )
)
"""Formats that most ask for."""


def rows(model: Model, only: frozenset[str] | None = None) -> list[dict[str, Any]]:
    """Bytes in every plain format, in every scheme that packs some of the model, and of training checkpoints.

    A row has a name of its own, which ``--quant`` takes where it is a scheme's. ``bytes`` is the parameters alone;
    ``disk_bytes`` adds what a checkpoint stores and transformers does not build. Loading reads one tensor after the
    other, so the device holds the weights and the host the largest tensor. Leaves out the matrix that is being packed,
    where weights are quantized while loading.

    Args:
        model: that is stored.
        only: formats to tell; all where None.
    """
    return [*_plain(model, only), *_schemes(model, only), *_training(model)]


def _row(name: str, size: int, disk: int, host: int, device: int) -> dict[str, Any]:
    return {
        "format": name, "bytes": size, "disk_bytes": disk, "host_load_bytes": host, "device_load_bytes": device,
    }  # fmt: skip


def _largest(model: Model) -> int:
    return max((t.numel for _, inventory in model.groups() for t in inventory if is_parameter(t)), default=0)


def _plain(model: Model, only: frozenset[str] | None) -> Iterator[dict[str, Any]]:
    groups, largest = list(model.groups()), _largest(model)
    for name in (name for name in PLAIN if only is None or name in only):
        form = FORMATS[name]
        size = bytes_of(groups, form, is_parameter)[0].requested
        yield _row(name, size, size + form.nbytes(numel(model.apart)), form.nbytes(largest), size)


def _schemes(model: Model, only: frozenset[str] | None) -> Iterator[dict[str, Any]]:
    """The checkpoint's own scheme first; schemes that pack nothing of this model are left out."""
    form = _own_format(model)
    dense, largest = bytes_of(model.groups(), form, is_parameter)[0].requested, form.nbytes(_largest(model))
    found = quant.entries(model, by_layer=False)
    named = ((quant.APART.get(name, name), name) for name in _names())
    asked = [(told, quant.called(name), False) for told, name in named if only is None or told in only]
    if model.quantization is not None:
        asked.insert(0, ("checkpoint", model.quantization, True))
    for name, config, own in asked:
        try:
            recipe = quant.recipe(config, checkpoint=own, lenient=True)
            parts = stored(model, form, recipe, found)
        except TonnageError:
            # A scheme that is not modelled for this model has no row; asking for it by name says why.
            continue
        if recipe.plan is None and all(s.part == "kept" for s in parts):
            continue
        size = total(parts).requested
        disk = dense if recipe.saved == "dense" else size
        if recipe.loaded_bias is not None:
            disk = total(stored(model, form, recipe.but(loaded_bias=None), found)).requested
        if recipe.plan is None:
            disk += total(shares(quant.apart(model, recipe), form)).requested
        host = max((s.largest for s in parts), default=0) if recipe.calibrated or own else largest
        yield _row(name, size, disk, host, dense if recipe.resident == "dense" else size)


def _names() -> Iterator[str]:
    yield from (name for name in quant.NAMES if name not in quant.ON_DEMAND)
    yield from quant.GGUF


def _own_format(model: Model) -> Format:
    try:
        return storage_format(model.dtype or "bf16")
    except TonnageError:
        return FORMATS["bf16"]


def _training(model: Model) -> Iterator[dict[str, Any]]:
    """Weights, AdamW's moments with their step counters, and master weights."""
    groups = list(model.groups())
    P = model.parameters.total
    for name, kept, master in TRAINING:
        form = FORMATS[kept]
        level, tensors = bytes_of(groups, form, is_parameter)
        state = 2 * (master or form.bytes) * P + 4 * tensors
        size = level.requested + master * P + state
        yield _row(name, size, size, master * P + state, size)
