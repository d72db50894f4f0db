"""Ranks of an engine that gives its pool what is left: lines, and what follows from the pool by inversion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tonnage.evidence import ASSUMED, DERIVED, EXACT
from tonnage.memory.overhead import CONTEXT, CONTEXT_BASIS
from tonnage.memory.pool.ranked import Extra, Span
from tonnage.memory.weights import Share
from tonnage.record import Record
from tonnage.timeline import Component, Instant, Level, Rank, exact, ranged

MOST_SEQUENCES: Final = 1 << 20
MOST_TOKENS: Final = 1 << 32
ROUNDING: Final = (
    "https://github.com/pytorch/pytorch/blob/v2.13.0/c10/cuda/CUDACachingAllocator.cpp (round_size, should_split): "
    "blocks of 512 B, and remainders of up to 1 MiB that are not split"
)


NONE: Final = Span(0, 0, 0)


class Load(Record):
    """What a rank holds before it has a pool.

    Args:
        shares: weights, by part and format.
        extras: what the engine makes beside them.
        peak: what comes and goes while it profiles.
        peak_why: how that comes about.
        instant: the moment of the peak, and the one after it with its bytes.
        runner_up: the moment after it, and its bytes.
        resident: what the engine keeps for itself in torch's memory.
        workspace: of matrix products.
        outside: what no tensor takes, within the budget: name, size and basis.
        after: the same, taken once the pool is there.
        host: what lies in host memory: name, bytes and words.
    """

    shares: tuple[Share, ...]
    extras: tuple[Extra, ...] = ()
    peak: Span = NONE
    peak_why: str = ""
    instant: str = "decoding"
    runner_up: tuple[str, int] | None = None
    resident: tuple[tuple[str, int, str], ...] = ()
    workspace: int = 0
    outside: tuple[tuple[str, Span, str], ...] = ()
    after: tuple[tuple[str, Span, str], ...] = ()
    host: tuple[tuple[str, int, str], ...] = ()

    @property
    def weights(self) -> Level:
        """Weights and what is made of them."""
        level = Level()
        for share in self.shares:
            level = level + share.level
        for extra in self.extras:
            level = level + extra.level
        return level

    @property
    def before(self) -> Span:
        """All that a pool cannot have."""
        fixed = self.weights.allocated + sum(n for _, n, _ in self.resident) + self.workspace
        out = Span(fixed, fixed, fixed).plus(self.peak)
        for _, span, _ in self.outside:
            out = out.plus(span)
        return out


def rank(
    name: str,
    multiplicity: int,
    load: Load,
    pool: Span,
    *,
    why: str,
    reference: str,
    deployed: bool,
    states: Sequence[tuple[str, int, str]] = (),
) -> Rank:
    """One rank's lines.

    Args:
        name: of the rank.
        multiplicity: ranks alike.
        load: what it holds beside the pool.
        pool: bytes of the pool; what is asked for where no device is named.
        why: how the pool comes about.
        reference: where the engine's rule stands.
        deployed: whether the context of the process lies beside what ``load`` tells: a device is named, and the
            engine does not count it itself.
        states: pools of their own for recurrent states: name, bytes and words.
    """
    lines = [_share(s) for s in load.shares]
    lines += [exact("weights", e.level.requested, f"{e.what}: {e.size}", reference) for e in load.extras]
    lines += [exact("other:" + what, n, words, reference, trust=DERIVED) for what, n, words in load.resident if n]
    if pool.likely or pool.high:
        lines.append(_pool(pool, why, reference))
    lines += [exact("recurrent_state", n, words, reference, trust=DERIVED) for _, n, words in states if n]
    if load.peak.high:
        p = load.peak
        lines.append(
            ranged("activations", p.low, p.likely, p.high, load.peak_why, reference, tier="requested", trust=DERIVED)
        )
    if load.workspace:
        lines.append(exact("workspace", load.workspace, "cuBLAS", ROUNDING, tier="allocated", trust=DERIVED))
    rounding = load.weights.allocated - load.weights.requested
    if rounding:
        lines.append(exact("rounding", rounding, "weights in the allocator's blocks", ROUNDING, tier="allocated"))
    for what, span, basis in (*load.outside, *load.after):
        lines.append(ranged(what, span.low, span.likely, span.high, basis, reference, tier="device"))
    if deployed:
        lines.append(ranged("context", *CONTEXT, CONTEXT_BASIS, "memory/overhead.py", tier="device"))
    lines += [exact(what, n, words, reference, tier="host", trust=DERIVED) for what, n, words in load.host if n]
    static = sum(c.bytes for c in lines if c.tier in ("requested", "allocated") and c.name != "activations")
    peak = static + load.peak.likely
    second = load.runner_up
    return Rank(
        rank=name,
        multiplicity=multiplicity,
        static_bytes=static,
        peak=Instant(load.instant, peak),
        runner_up=None if second is None else Instant(second[0], static + second[1]),
        components=tuple(lines),
        instants=(
            *((Instant(second[0], static + second[1]),) if second is not None else ()),
            Instant(load.instant, peak),
        ),
    )


def _share(s: Share) -> Component:
    return exact(
        "weights", s.level.requested, f"{s.part}: {s.elements:,} x {s.format}, {s.tensors} tensors of this rank",
        "memory/pool/ranked.py", trust=EXACT, terms=(("n", f"elements in {s.format}", s.elements),),
    )  # fmt: skip


def _pool(pool: Span, why: str, reference: str) -> Component:
    trust = EXACT if pool.low == pool.high else ASSUMED
    return ranged("kv_cache", pool.low, pool.likely, pool.high, why, reference, tier="requested", trust=trust)


def fullest(ranks: Iterable[Rank]) -> int:
    """Index of the rank that is fullest on its device."""
    found = list(ranks)
    return max(range(len(found)), key=lambda i: found[i].tier("device"))
