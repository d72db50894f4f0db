"""How much memory a caching allocator has to itself."""

from __future__ import annotations

from tonnage.allocator.answer import Room
from tonnage.devices import Device
from tonnage.memory.overhead import context
from tonnage.units import parse_bytes


def room(device: Device | None, held: int, size: str | None) -> Room | None:
    """The room of a device, whose context is taken off, or of a size; None where neither is named.

    Args:
        device: where it runs.
        held: what others hold there. [byte]
        size: memory for the allocator alone, such as "22GiB".
    """
    if device is not None:
        have, taken = device.capacity, [c + held for c in context(device)[:3]]
        return Room(device.name, have.bytes - taken[1], have.low - taken[2], have.high - taken[0], have.bytes)
    if size is None:
        return None
    whole = parse_bytes(size, key="device_memory")
    return Room(size, whole, whole, whole, whole)
