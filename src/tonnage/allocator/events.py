"""What the allocator is told besides allocations and frees."""

from __future__ import annotations

from tonnage.timeline import Allocate, Event, Free

__all__ = ["Action", "Allocate", "Complete", "EmptyCache", "Event", "Free", "RecordStream"]


class RecordStream:
    """Another stream uses a storage: once freed it waits for that stream.

    Args:
        id: of the storage.
        stream: that uses it.
    """

    __slots__ = ("id", "stream")

    def __init__(self, id: int, stream: int) -> None:
        self.id = id
        self.stream = stream


class Complete:
    """A freed storage is used by no stream any more.

    Args:
        id: of the storage.
    """

    __slots__ = ("id",)

    def __init__(self, id: int) -> None:
        self.id = id


class EmptyCache:
    """``torch.cuda.empty_cache()``."""

    __slots__ = ()


Action = Event | RecordStream | Complete | EmptyCache
