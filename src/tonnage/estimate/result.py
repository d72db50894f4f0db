"""A result: frozen, serialisable, the same everywhere. All sizes are integers in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from tonnage.evidence import Trust
from tonnage.timeline import Instant

SCHEMA: Final = 1

TIERS: Final = ("requested", "allocated", "reserved", "device")
"""Cumulative: requested is part of allocated, that of reserved, that of device."""

COMPONENTS: Final = (
    "weights", "gradients", "master_weights", "optimizer_state", "activations", "logits", "loss", "inputs", "kv_cache",
    "recurrent_state", "workspace", "communication", "context", "cuda_graphs", "rounding", "fragmentation",
)  # fmt: skip
"""Names of components; besides them only ``other:<what>``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Component:
    """One line of a result.

    Args:
        name: from a closed set.
        tier: where it is counted; ``host`` and ``disk`` have sums of their own.
        bytes: the value. [byte]
        low_bytes, high_bytes: its range; the value itself where it is exact. [byte]
        trust: exact, derived, measured or assumed.
        why: how the value comes about, in words.
        reference: where the rule or figure stands.
        terms: what the value is made of, as ``(symbol, meaning, value)``, for ``explain``.
    """

    name: str
    tier: str
    bytes: int
    low_bytes: int
    high_bytes: int
    trust: Trust
    why: str
    reference: str
    terms: tuple[tuple[str, str, int], ...] = ()


def exact(
    name: str,
    size: int,
    why: str,
    reference: str,
    *,
    tier: str = "requested",
    trust: Trust = "exact",
    terms: tuple[tuple[str, str, int], ...] = (),
) -> Component:
    """A line without a range."""
    return Component(
        name=name, tier=tier, bytes=size, low_bytes=size, high_bytes=size, trust=trust, why=why, reference=reference,
        terms=terms,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Rank:
    """One device's share; ``multiplicity`` devices are alike."""

    rank: str
    multiplicity: int
    static_bytes: int
    peak: Instant
    runner_up: Instant | None
    components: tuple[Component, ...]
    instants: tuple[Instant, ...]

    def tier(self, name: str, bound: str = "bytes") -> int:
        """Sum of the lines up to a tier. [byte]"""
        if name in TIERS:
            within = TIERS[: TIERS.index(name) + 1]
            return sum(getattr(c, bound) for c in self.components if c.tier in within)
        return sum(getattr(c, bound) for c in self.components if c.tier == name)

    def as_dict(self) -> dict[str, Any]:
        """The rank of the JSON contract."""
        return {
            "rank": self.rank,
            "multiplicity": self.multiplicity,
            "static_bytes": self.static_bytes,
            "peak": {
                "instant": self.peak.name,
                "bytes": self.peak.bytes,
                "runner_up": None
                if self.runner_up is None
                else {"instant": self.runner_up.name, "bytes": self.runner_up.bytes},
            },
            **{f"{tier}_bytes": self.tier(tier) for tier in (*TIERS, "host", "disk")},
            "range": {tier: [self.tier(tier, "low_bytes"), self.tier(tier, "high_bytes")] for tier in TIERS},
            "components": [
                {
                    "name": c.name,
                    "tier": c.tier,
                    "bytes": c.bytes,
                    "low_bytes": c.low_bytes,
                    "high_bytes": c.high_bytes,
                    "trust": c.trust,
                    "why": c.why,
                    "reference": c.reference,
                }
                for c in self.components
            ],
            "instants": [{"name": i.name, "bytes": i.bytes} for i in self.instants],
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Suggestion:
    """The smallest single change that would fit, re-estimated."""

    change: Mapping[str, Any]
    alters: tuple[str, ...]
    verdict: str
    device_bytes: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Fit:
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Result:
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
    extras: Mapping[str, Any] = field(default_factory=dict)

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
        return out
