"""An answer with what was measured on its device in place of what is assumed of it: its context, its fragmentation.

The device carries what was measured, so that every estimate made for it counts with it: an answer, the changes that
are suggested, the largest context, tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.devices import Calibration, Device
from tonnage.errors import UnsupportedError
from tonnage.evidence import ASSUMED, MEASURED
from tonnage.timeline import Component, Rank, ranged

REFERENCE: Final = "measured on the device itself: tonnage measure --calibrate"


def calibrated(rank: Rank, device: Device | None) -> Rank:
    """A rank with the lines that were measured on its device; as it is where none were."""
    if device is None or device.calibration is None:
        return rank
    moving = rank.tier("allocated") - rank.static_bytes
    return rank.but(components=tuple(_line(line, device.calibration, moving) for line in rank.components))


def refuse_pools(capacity: Mapping[str, Any] | None, device: Device | None) -> None:
    """Refuse an engine whose pool takes what its own reserves leave.

    Raises:
        UnsupportedError: for the reason said.
    """
    if device is None or device.calibration is None or capacity is None or capacity.get("blocks") is None:
        return
    raise UnsupportedError(
        "a calibration says what the caching allocator and the context take; this engine's pool takes what is left",
        key="calibration", value=device.name, hint="leave it out, or --engine transformers",
    )  # fmt: skip


def _line(line: Component, found: Calibration, moving: int) -> Component:
    """A line that was assumed or measured elsewhere, as it was measured here; every other one as it is."""
    if line.trust not in (ASSUMED, MEASURED):
        return line
    told = f"measured in {found.runs} run{'s' if found.runs > 1 else ''} on {found.device}; {found.basis}"
    if line.name == "context":
        return ranged("context", *found.context, told, REFERENCE, tier=line.tier, trust=MEASURED)
    if line.name == "fragmentation":
        low, middle, high = (round(share * moving) for share in found.fragmentation)
        words = f"{found.fragmentation[1]:.1%} of what comes and goes, {told}"
        return ranged("fragmentation", low, middle, high, words, REFERENCE, tier=line.tier, trust=MEASURED)
    return line
