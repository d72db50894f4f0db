"""Does it fit, and if not, what would."""

from __future__ import annotations

from tonnage.devices import Device
from tonnage.estimate.result import Fit
from tonnage.timeline import Rank


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


def held(
    sequences: tuple[float, float, float], asked: int, spare: int, device: Device, *, doubt: tuple[str, ...] = ()
) -> Fit:
    """Compare a pool with the sequences that it is to hold.

    Args:
        sequences: that it holds, at least, likely and at most.
        asked: for.
        spare: of the pool beyond what they take. [byte]
        device: whose memory the pool is part of.
        doubt: as in ``fit``.
    """
    least, _, most = sequences
    if least >= asked and not doubt:
        verdict = "fits"
    elif most < asked:
        verdict = "does not fit"
    else:
        verdict = "uncertain"
    return Fit(device=device.name, capacity_bytes=device.capacity.bytes, verdict=verdict, spare_bytes=spare)
