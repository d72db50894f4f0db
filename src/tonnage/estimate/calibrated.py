"""An answer with what was measured on the device in place of what is assumed of it: its context, its fragmentation."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tonnage.devices import Device
from tonnage.errors import UnsupportedError
from tonnage.estimate.result import Result
from tonnage.estimate.verdict import fit
from tonnage.evidence import ASSUMED, MEASURED
from tonnage.record import Record
from tonnage.timeline import Component, Rank, ranged

REFERENCE: Final = "measured on the device itself: tonnage measure --calibrate"


class Calibration(Record):
    """What runs on a device showed.

    Args:
        device: its name.
        runs: how many.
        context: least, median and most of what the driver tells beyond what the allocator reserves. [byte]
        fragmentation: least, median and most of reserved less allocated, over the allocated peak less what is resident.
        basis: releases and dates, in words.
    """

    device: str
    runs: int
    context: tuple[int, int, int]
    fragmentation: tuple[float, float, float]
    basis: str


def calibrated(result: Result, found: Calibration, device: Device, in_use: int) -> Result:
    """The answer with measured lines.

    Args:
        result: of ``train``, or of ``serve`` without a pool.
        found: of that device.
        device: that is meant.
        in_use: what others hold on it. [byte]

    Raises:
        UnsupportedError: an engine whose pool takes what its own reserves leave.
    """
    if result.capacity is not None and result.capacity.get("blocks") is not None:
        raise UnsupportedError(
            "a calibration says what the caching allocator and the context take; this engine's pool takes what is left",
            key="calibration", value=found.device, hint="leave it out, or --engine transformers",
        )  # fmt: skip
    ranks = tuple(_rank(rank, found) for rank in result.ranks)
    changed = replace(result, ranks=ranks)
    if result.fit is None:
        return changed
    doubt = (*result.ignored, *result.extras.get("incomplete", ()))
    return replace(changed, fit=fit(changed.fullest, device, in_use, doubt=doubt))


def _rank(rank: Rank, found: Calibration) -> Rank:
    moving = rank.tier("allocated") - rank.static_bytes
    return rank.but(components=tuple(_line(line, found, moving) for line in rank.components))


def _line(line: Component, found: Calibration, moving: int) -> Component:
    """A line that was assumed, as it was measured; every other one as it is."""
    if line.trust != ASSUMED:
        return line
    told = f"measured in {found.runs} run{'s' if found.runs > 1 else ''} on {found.device}; {found.basis}"
    if line.name == "context":
        low, middle, high = found.context
        return ranged("context", low, middle, high, told, REFERENCE, tier=line.tier, trust=MEASURED)
    if line.name == "fragmentation":
        low, middle, high = (round(share * moving) for share in found.fragmentation)
        words = f"{found.fragmentation[1]:.1%} of what comes and goes, {told}"
        return ranged("fragmentation", low, middle, high, words, REFERENCE, tier=line.tier, trust=MEASURED)
    return line
