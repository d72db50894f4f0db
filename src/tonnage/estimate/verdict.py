"""Does it fit, and if not, what would."""

from __future__ import annotations

from tonnage.devices import Device
from tonnage.estimate.result import Fit, Rank


def fit(rank: Rank, device: Device, in_use: int, *, doubt: tuple[str, ...] = ()) -> Fit:
    """Compare the fullest rank with the device.

    Args:
        rank: the fullest.
        device: what a process can have of it is the capacity.
        in_use: what others hold. [byte]
        doubt: reasons why what is estimated may be too low; any of them forbids "fits".
    """
    capacity = device.capacity
    low, high = rank.tier("device", "low_bytes") + in_use, rank.tier("device", "high_bytes") + in_use
    if high <= capacity.low and not doubt:
        verdict = "fits"
    elif low > capacity.high:
        verdict = "does not fit"
    else:
        verdict = "uncertain"
    spare = capacity.bytes - rank.tier("device") - in_use
    return Fit(device=device.name, capacity_bytes=capacity.bytes, verdict=verdict, spare_bytes=spare)
