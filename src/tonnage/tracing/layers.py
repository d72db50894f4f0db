"""Which layers of a model are alike, and the same model with few of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Final

import torch

from tonnage.tracing import models
from tonnage.tracing.layers_alike import repeated
from tonnage.tracing.spread import Unit

NUMBERS: Final = frozenset(("layer_idx", "layer_id", "layer_number", "idx", "block_idx", "index", "layer_index"))
"""Attributes by which a layer knows its place."""


def signature(layer: Any) -> tuple[object, ...]:
    """All that tells a layer's work: classes, shapes, and plain settings of its modules."""
    out: list[object] = []
    for name, module in layer.named_modules():
        plain = tuple(
            (key, value) for key, value in sorted(module.__dict__.items())
            if key not in NUMBERS and isinstance(value, bool | int | float | str | type(None)) and key != "training"
        )  # fmt: skip
        shapes = tuple((n, tuple(t.shape), str(t.dtype)) for n, t in module.named_parameters(recurse=False))
        buffers = tuple((n, tuple(t.shape), str(t.dtype)) for n, t in module.named_buffers(recurse=False))
        out.append((name, type(module), plain, shapes, buffers))
    return tuple(out)


def fewer(config: Any, kept: Sequence[int], depth: int) -> Any:
    """The config of a model with the layers ``kept`` of ``depth``."""
    small = copy.deepcopy(config)
    for key, value in list(small.__dict__.items()):
        if isinstance(value, list) and len(value) == depth:
            setattr(small, key, [value[i] for i in kept])
    small.num_hidden_layers = len(kept)
    return small


def thinned(config: Any, full: Any, lead: int = 1, **how: Any) -> tuple[Any, Unit] | None:
    """The same model with few layers, and what repeats; None where it cannot be told from them.

    Args:
        config: of the full model.
        full: the model.
        lead: as ``repeated`` takes it.
        how: as it was built.
    """
    layers = models.layers_of(full)
    if len({name.rpartition(".")[0] for name, _ in layers}) != 1 or _shared(layers):
        return None
    kinds = [signature(layer) for _, layer in layers]
    found = repeated(kinds, lead)
    if found is None:
        return None
    kept, unit = found
    try:
        small = models.build(fewer(config, kept, len(layers)), **how)
    except Exception:
        return None
    mine = models.layers_of(small)
    if [signature(layer) for _, layer in mine] != [kinds[i] for i in kept]:
        return None
    return (small, unit) if _around(small, mine) == _around(full, layers) else None


def _shared(layers: Sequence[tuple[str, Any]]) -> bool:
    """Whether two layers have a parameter in common."""
    seen: set[int] = set()
    for _, layer in layers:
        own = {id(t) for t in layer.parameters()}
        if own & seen:
            return True
        seen |= own
    return False


def _around(model: Any, layers: Sequence[tuple[str, Any]]) -> list[tuple[str, torch.Size]]:
    """Parameters and buffers that belong to no layer."""
    starts = tuple(f"{name}." for name, _ in layers)
    found = [*model.named_parameters(), *model.named_buffers()]
    return [(name, t.shape) for name, t in found if not name.startswith(starts)]
