"""Instants: named moments with what is alive at them, line by line; a run's instants in order are its timeline."""

from __future__ import annotations

from typing import Any, Final

from tonnage.evidence import ASSUMED, Trust
from tonnage.record import Record


class Level:
    """Bytes alive at a moment, in two tiers.

    Args:
        requested: live tensors, unrounded. [byte]
        allocated: blocks of the caching allocator that hold them and what kernels took for themselves. [byte]
    """

    __slots__ = ("allocated", "requested")

    def __init__(self, requested: int = 0, allocated: int = 0) -> None:
        self.requested = requested
        self.allocated = allocated

    def __repr__(self) -> str:
        return f"Level(requested={self.requested}, allocated={self.allocated})"

    def __add__(self, other: Level) -> Level:
        return Level(self.requested + other.requested, self.allocated + other.allocated)

    def __sub__(self, other: Level) -> Level:
        return Level(self.requested - other.requested, self.allocated - other.allocated)

    def times(self, n: int) -> Level:
        """``n`` of it."""
        return Level(self.requested * n, self.allocated * n)


class Instant(Record):
    """A named moment and what is alive at it. [byte]"""

    name: str
    bytes: int


TIERS: Final = ("requested", "allocated", "reserved", "device")
"""Cumulative: requested is part of allocated, that of reserved, that of device."""

COMPONENTS: Final = (
    "weights", "gradients", "master_weights", "optimizer_state", "activations", "logits", "loss", "inputs", "kv_cache",
    "recurrent_state", "workspace", "communication", "context", "cuda_graphs", "rounding", "fragmentation",
)  # fmt: skip
"""Names of components; besides them only ``other:<what>``."""


class Component(Record):
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


def ranged(
    name: str, low: int, size: int, high: int, why: str, reference: str, *, tier: str, trust: Trust = ASSUMED
) -> Component:
    """A line with a range, whose basis ``why`` states."""
    return Component(
        name=name, tier=tier, bytes=size, low_bytes=low, high_bytes=high, trust=trust, why=why, reference=reference
    )


class Rank(Record):
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


class Allocate:
    """A storage is born.

    Args:
        id: of the storage, until it dies.
        size: as the program asked for it. [byte]
        stream: whose work uses it.
        op: operation that made it, where it is known.
        phase: of the step: ``forward``, ``backward``, ...
        module: of the model.
    """

    __slots__ = ("id", "module", "op", "phase", "size", "stream")

    def __init__(self, id: int, size: int, *, stream: int = 0, op: str = "", phase: str = "", module: str = "") -> None:
        self.id = id
        self.size = size
        self.stream = stream
        self.op = op
        self.phase = phase
        self.module = module

    def __repr__(self) -> str:
        return f"Allocate({self.id}, {self.size})"


class Free:
    """A storage dies.

    Args:
        id: of the storage.
    """

    __slots__ = ("id",)

    def __init__(self, id: int) -> None:
        self.id = id

    def __repr__(self) -> str:
        return f"Free({self.id})"


Event = Allocate | Free
"""Events in order are what the tracer, a recorded snapshot and a closed form tell alike."""
