"""What the log of a run tells: figures as they were printed, and the keys of a workload that the run states itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tonnage.record import Record


class Figure(Record):
    """A size that an engine printed.

    Args:
        name: of the component, as lines of a result have it.
        bytes: as printed. [byte]
        half: half of the last digit that was printed: the size lies within this of ``bytes``. [byte]
        device: whose buffer it is, where the engine tells them apart.
        parts: components of a result that it covers; none where the engine's own line is predicted.
        text: the line, without what loggers put before it.
    """

    name: str
    bytes: int
    half: int
    device: str = ""
    parts: tuple[str, ...] = ()
    text: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What it is called and where it lies."""
        return self.name, self.device

    def hit(self, size: int) -> bool:
        """Whether a size is printed as this figure.

        >>> Figure("weights", 100, 5).hit(104), Figure("weights", 100, 5).hit(106)
        (True, False)
        """
        return abs(size - self.bytes) <= self.half


class Told(Record):
    """What a log tells.

    Args:
        engine: whose log it is.
        release: as it states it; None where it does not.
        model: as it names it.
        said: keys of a workload, as far as the log states them.
        figures: sizes, in the order of the log.
        counts: ``tokens``, ``concurrency``, ``blocks``, ``block_size``, ``slots``, ``window_tokens``.
        free: memory that was free when the engine started, and all there is. [byte]
        total: all that the device has. [byte]
        notes: what it says beside: why it stopped, what could not be read.
    """

    engine: str
    release: str | None = None
    model: str | None = None
    said: Mapping[str, Any] = {}
    figures: tuple[Figure, ...] = ()
    counts: Mapping[str, float] = {}
    free: int | None = None
    total: int | None = None
    notes: tuple[str, ...] = ()

    def figure(self, name: str, device: str = "") -> Figure | None:
        """The figure of that name and device."""
        return next((f for f in self.figures if f.key == (name, device)), None)
