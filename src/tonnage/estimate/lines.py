"""The lines of a result: what is alive at one instant, and the reserves that come on top."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tonnage.arch.tape import WIDTH, Storage
from tonnage.estimate.moments import Held, Moment
from tonnage.evidence import ASSUMED, DERIVED, EXACT, MEASURED
from tonnage.memory.overhead import CUBLAS_REFERENCE, FRAGMENTATION, FRAGMENTATION_BASIS, context
from tonnage.tensors import product
from tonnage.timeline import Component, Level, exact, ranged

if TYPE_CHECKING:
    from tonnage.devices import Device

ALLOCATOR = "https://github.com/pytorch/pytorch/blob/v2.13.0/c10/cuda/CUDACachingAllocator.cpp (round_size)"

RESERVES = "memory/overhead.py"

ORDER = (
    "weights", "other:buffers", "gradients", "master_weights", "optimizer_state", "kv_cache", "recurrent_state",
    "activations", "logits", "loss", "inputs", "workspace",
)  # fmt: skip

Terms = tuple[tuple[str, str, int], ...]


def lines(moment: Moment, held: Iterable[Held], why: dict[str, tuple[str, str, Terms]]) -> list[Component]:
    """What is alive at ``moment``, one line for each thing.

    Args:
        moment: the instant.
        held: what the ledger holds at it, beside what its span holds itself.
        why: for names whose origin is no activation: words, reference and terms.

    Returns:
        Lines of the tiers requested and allocated. They add up to the moment's level, to the byte.
    """
    out: list[Component] = []
    workspace = 0
    single: dict[tuple[str, str], list[Storage]] = {}
    for h in held:
        size = h.unit.requested * h.count
        if h.count and h.name == "workspace":
            workspace += h.unit.allocated * h.count
        elif size and h.storages and h.count == 1:
            single.setdefault((h.name, h.what), []).extend(h.storages)
        elif size and h.storages:
            out.append(_stored(h.name, size, h.count, h.what, h.storages))
        elif size:
            words, reference, terms = why.get(h.what, why.get(h.name, (h.what, "", ())))
            # An engine's share is what it may take, and it takes that.
            trust = DERIVED if h.name == "other:engine" else EXACT
            out.append(exact(h.name, size, words, reference, terms=terms, trust=trust))
    out += [_stored(name, sum(s.nbytes for s in found), 1, what, found) for (name, what), found in single.items()]
    scratch = 0
    groups: dict[str, list[Storage]] = {}
    for s in moment.span.alive() if moment.span is not None else ():
        if s.category == "workspace":
            scratch += s.nbytes
        else:
            groups.setdefault(s.category, []).append(s)
    for category, storages in groups.items():
        size = sum(s.nbytes for s in storages)
        out.append(_stored(category, size, 1, f"at {moment.name!r}", storages))
    out = sorted(_merged(out), key=lambda c: ORDER.index(c.name) if c.name in ORDER else len(ORDER))
    requested = sum(c.bytes for c in out)
    assert requested == moment.level.requested, (requested, moment.level.requested)
    if workspace:
        words = f"matrix products: {workspace:,} B, kept by each thread that runs them"
        out.append(exact("workspace", workspace, words, CUBLAS_REFERENCE, tier="allocated", trust=DERIVED))
    if scratch:
        words = f"taken by the kernel that runs at {moment.name!r}"
        out.append(exact("workspace", scratch, words, "arch/kernels.py", tier="allocated", trust=DERIVED))
    rounding = moment.level.allocated - requested - workspace - scratch
    if rounding:
        words = "every tensor takes whole blocks of 512 B"
        out.append(exact("rounding", rounding, words, ALLOCATOR, tier="allocated", trust=DERIVED))
    return out


def _stored(name: str, size: int, count: int, what: str, storages: list[Storage]) -> Component:
    """A line of tensors that a pass left alive, each of them told in the terms."""
    single = sum(s.nbytes for s in storages)
    if count > 1:
        words = f"{count} x {single:,} B {what}, {len(storages)} tensor{'s' if len(storages) > 1 else ''} each"
    elif len(storages) == 1:
        only = storages[0]
        name_it = "" if only.label == what else f"{only.label}, "
        words = f"{what}: {name_it}{product(only.axes, WIDTH[only.dtype])}"
    else:
        words = f"{what}: {_most(storages, single)}"
    terms = tuple((s.label, product(s.axes, WIDTH[s.dtype]), s.nbytes) for s in storages)
    return exact(
        name, size, words, "arch/: the blocks' forward passes, as transformers 5.23.0 writes them", terms=terms
    )


def _most(storages: list[Storage], total: int) -> str:
    """The largest of some tensors by name, as far as they make up most of the bytes."""
    names: dict[str, int] = {}
    for s in storages:
        names[s.label] = names.get(s.label, 0) + s.nbytes
    told, covered = [], 0
    for label, size in sorted(names.items(), key=lambda item: -item[1])[:3]:
        if covered >= 0.95 * total:
            break
        told.append(label)
        covered += size
    rest = len(names) - len(told)
    return ", ".join(told) + (f" and {rest} more" if rest else "")


def _merged(found: list[Component]) -> list[Component]:
    """Lines of one name and one origin as one: gradients come from many places."""
    gradients = [c for c in found if c.name == "gradients"]
    if len(gradients) < 2:
        return found
    rest = [c for c in found if c.name != "gradients"]
    size = sum(c.bytes for c in gradients)
    terms: dict[str, tuple[str, str, int]] = {}
    words = "; ".join(dict.fromkeys(c.why for c in gradients))
    for c in gradients:
        for symbol, meaning, value in c.terms:
            terms[symbol] = (symbol, meaning, value)
    return [*rest, exact("gradients", size, words, gradients[0].reference, terms=tuple(terms.values()))]


def reserves(
    allocated: int, static: int, *, caching: bool, device: Device | None = None, loaded: int = 0
) -> list[Component]:
    """What comes on top of the tensors: fragmentation of the caching allocator, and the context of the process.

    Args:
        allocated: at the peak. [byte]
        static: resident between steps or requests: allocated once, it leaves no gaps. [byte]
        caching: whether memory comes from a caching allocator.
        device: where; None names none.
        loaded: what the cache holds since the weights were loaded, if they came with a ``device_map``. [byte]
    """
    out = []
    if caching:
        low, value, high = (round(share * (allocated - static)) for share in FRAGMENTATION)
        words = f"{FRAGMENTATION[1]:.0%} of what comes and goes, assumed; {FRAGMENTATION_BASIS}"
        if loaded > allocated + value:
            value, high = loaded - allocated, max(high, loaded - allocated)
            words = f"loading with a device_map first took {loaded:,} B in one piece, assumed; tied weights count twice"
        out.append(ranged("fragmentation", low, value, high, words, RESERVES, tier="reserved"))
    held = context(device)
    trust = MEASURED if held.measured else ASSUMED
    out.append(ranged("context", *held[:3], held.basis, RESERVES, tier="device", trust=trust))
    return out


def total(components: Iterable[Component]) -> Level:
    """Requested and allocated bytes of some lines."""
    requested = allocated = 0
    for c in components:
        requested += c.bytes if c.tier == "requested" else 0
        allocated += c.bytes if c.tier in ("requested", "allocated") else 0
    return Level(requested, allocated)


__all__ = ["EXACT", "lines", "reserves", "total"]
