"""A result: frozen, serialisable, the same everywhere. All sizes are integers in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from tonnage.record import Record
from tonnage.timeline import Component, Instant, Rank

SCHEMA: Final = 1


class Suggestion(Record):
    """The smallest single change that would fit, re-estimated."""

    change: Mapping[str, Any]
    alters: tuple[str, ...]
    verdict: str
    device_bytes: int
    text: str


class Fit(Record):
    """Does it fit: ``fits``, ``uncertain`` or ``does not fit``."""

    device: str
    capacity_bytes: int
    verdict: str
    spare_bytes: int
    host_capacity_bytes: int | None = None
    suggestion: Suggestion | None = None

    @property
    def fits(self) -> bool | None:
        """True, False, or None where the range straddles the capacity."""
        return {"fits": True, "does not fit": False}.get(self.verdict)

    def as_dict(self) -> dict[str, Any]:
        """The fit of the JSON contract."""
        s = self.suggestion
        return {
            "device": self.device,
            "capacity_bytes": self.capacity_bytes,
            "verdict": self.verdict,
            "fits": self.fits,
            "spare_bytes": self.spare_bytes,
            "host_capacity_bytes": self.host_capacity_bytes,
            "suggestion": None
            if s is None
            else {
                "change": dict(s.change),
                "alters": list(s.alters),
                "verdict": s.verdict,
                "device_bytes": s.device_bytes,
                "text": s.text,
            },
        }


class Result(Record):
    """An answer to ``train`` or ``serve``."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    model: Mapping[str, Any]
    workload: Mapping[str, Any]
    defaulted: tuple[str, ...]
    ignored: tuple[str, ...]
    ranks: tuple[Rank, ...]
    fit: Fit | None
    capacity: Mapping[str, Any] | None = None
    caveats: tuple[str, ...] = ()
    not_modelled: tuple[str, ...] = ()
    extras: Mapping[str, Any] = {}

    @property
    def fullest(self) -> Rank:
        """The rank that ``fit`` speaks of."""
        return max(self.ranks, key=lambda r: r.tier("device"))

    @property
    def peak(self) -> Instant:
        """The largest instant of the fullest rank."""
        return self.fullest.peak

    @property
    def components(self) -> tuple[Component, ...]:
        """What is alive at the peak of the fullest rank."""
        return self.fullest.components

    @property
    def fits(self) -> bool | None:
        """Whether it fits; None where that is uncertain or no device was named."""
        return None if self.fit is None else self.fit.fits

    def as_dict(self) -> dict[str, Any]:
        """The result of the JSON contract."""
        out: dict[str, Any] = {
            "schema": SCHEMA,
            "model": dict(self.model),
            "workload": dict(self.workload),
            "defaulted": list(self.defaulted),
            "ignored": list(self.ignored),
            "ranks": [r.as_dict() for r in self.ranks],
            "fit": None if self.fit is None else self.fit.as_dict(),
        }
        if self.capacity is not None:
            out["capacity"] = dict(self.capacity)
        out["caveats"] = list(self.caveats)
        out["not_modelled"] = list(self.not_modelled)
        out.update({key: self.extras[key] for key in ("command", "table") if key in self.extras})
        return out
