"""What both answers say of the model and of the device."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.devices import Device

CACHING: Final = ("NVIDIA", "AMD", "")
"""Vendors whose devices torch serves through its caching allocator; a bare size counts as one of them."""


def summary(model: Model, *, trainable: int | None = None) -> dict[str, Any]:
    """The model of the JSON contract; ``trainable`` is how many parameters are trained, None for all."""
    counts = model.parameters
    total = counts.total
    return {
        "name": model.name or model.model_type,
        "parameters": total,
        "active_parameters": counts.active(count_embedding=True),
        "active_parameters_without_embedding": counts.active(count_embedding=False),
        "stored_parameters": counts.stored,
        "trainable_parameters": total if trainable is None else trainable,
    }


def caching(device: Device | None) -> bool:
    """Whether memory comes from torch's caching allocator."""
    return device is None or device.vendor in CACHING


def no_caching_caveat(device: Device | None) -> tuple[str, ...]:
    """Said where reserved and allocated are one."""
    if caching(device):
        return ()
    assert device is not None
    return (f"{device.title}: no caching allocator is modelled there, so reserved is allocated",)


def quantized_caveat(model: Model) -> tuple[str, ...]:
    """Said where the checkpoint's weights are quantized, which is not modelled yet."""
    if model.quantized is None:
        return ()
    told = "which training does not model yet: answered as if dequantized"
    return (f"the checkpoint is quantized ({model.quantized}), {told}",)
