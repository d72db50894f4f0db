"""What is known by name: devices and models as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tonnage.devices import Device
from tonnage.report.text import table
from tonnage.units import count, gib


def device_dict(d: Device) -> dict[str, Any]:
    """A device of the JSON contract."""
    capacity = d.capacity
    return {
        "name": d.name,
        "title": d.title,
        "vendor": d.vendor,
        "kind": d.kind,
        "aliases": list(d.aliases),
        "architecture": d.architecture or None,
        "memory_bytes": d.memory_bytes,
        "driver_bytes": d.driver_bytes,
        "usable_bytes": capacity.bytes,
        "usable_range": [capacity.low, capacity.high],
        "usable_basis": capacity.basis,
        "bandwidth": d.bandwidth,
        "rates": dict(d.rates),
        "links": dict(d.links),
        "unified": d.unified,
        "slice_of": d.slice_of,
        "source": d.source,
    }


def devices_table(devices: Iterable[Device]) -> str:
    """Name, memory, what a process can have, bandwidth, bf16 rate."""
    rows = [("name", "memory", "usable", "bandwidth", "bf16", "title")]
    for d in devices:
        capacity = d.capacity
        about = "" if capacity.low == capacity.high else "~"
        rate = d.rates.get("bf16") or d.rates.get("fp16")
        rows.append(
            (
                d.name,
                gib(d.memory_bytes, 0),
                about + gib(capacity.bytes),
                f"{d.bandwidth / 10**9:,.0f} GB/s" if d.bandwidth else "",
                f"{rate / 10**12:,.0f} TFLOP/s" if rate else "",
                d.title,
            )
        )
    return table(rows, right=frozenset({1, 2, 3, 4}))


def model_dict(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A model of the JSON contract."""
    return {
        "name": name,
        "hub": row.get("hub") or None,
        "model_type": row["config"]["model_type"],
        "parameters": row["parameters"],
        "source": row["source"],
    }


def models_table(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Name, parameters, architecture, Hub id."""
    rows = [("name", "parameters", "architecture", "Hub")]
    rows += [
        (name, count(row["parameters"]), row["config"]["model_type"], row.get("hub") or "")
        for name, row in models.items()
    ]
    return table(rows, right=frozenset({1}))
