"""A result of a trace, in the shape of every other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.allocator import Settings
from tonnage.devices import Device
from tonnage.estimate.lines import ALLOCATOR, ORDER, reserves
from tonnage.estimate.result import Result
from tonnage.estimate.summary import caching, no_caching_caveat
from tonnage.estimate.verdict import fit
from tonnage.evidence import DERIVED
from tonnage.memory.overhead import CUBLAS_REFERENCE
from tonnage.memory.passes import blocks
from tonnage.timeline import Component, Instant, Rank, exact
from tonnage.tracing.levels import Levels, levels
from tonnage.tracing.stream import (
    BUFFER,
    CACHE,
    GRADIENT,
    INPUT,
    LOSS,
    OUTSIDE,
    PARAMETER,
    RECURRENT,
    SCRATCH,
    STATE,
    WORKSPACE,
    Born,
    Traced,
)

NAMES: Final = {
    PARAMETER: "weights", BUFFER: "other:buffers", GRADIENT: "gradients", STATE: "optimizer_state", INPUT: "inputs",
    CACHE: "kv_cache", RECURRENT: "recurrent_state", WORKSPACE: "workspace", SCRATCH: "workspace",
}  # fmt: skip
RESIDENT: Final = ("weights", "other:buffers", "optimizer_state", "workspace")
TERMS: Final = 12
"""Groups of tensors that a line tells one by one."""

SCRATCHES: Final = "tracing/scratch.py"
PAGED: Final = "https://github.com/bitsandbytes-foundation/bitsandbytes/blob/0.50.2/bitsandbytes/functional.py"
REPLAYED: Final = "https://github.com/pytorch/pytorch/blob/v2.13.0/c10/cuda/CUDACachingAllocator.cpp"

NOT_MODELLED: Final = (
    "scratch of kernels other than softmax's and flash attention's backward passes, sums over rows and sums by index",
    "workspaces of cuDNN",
    "what other work left in the allocator's cache before",
)


def component(b: Born, told: Mapping[str, Any]) -> str:
    """The name of the line that a storage stands on."""
    if b.kind in NAMES:
        return NAMES[b.kind]
    if b.node and list(b.shape) in told.get("grown", {}).get(b.module, ()):
        return NAMES[GRADIENT]
    if b.layer == OUTSIDE and b.module == LOSS:
        return LOSS
    # What the model's own code makes of the head's output, a cap or a copy in fp32, is that still.
    ends = b.layer == OUTSIDE and b.module in (told.get("head") or "-", told.get("root", "-"))
    ends = ends and not b.dtype.startswith(("int", "uint", "bool"))
    return "logits" if ends else "activations"


def result(
    traced: Traced, *, model: Mapping[str, Any], workload: Mapping[str, Any], device: Device | None, in_use: int = 0,
    settings: Settings | None = None, caveats: tuple[str, ...] = (),
) -> Result:  # fmt: skip
    """What a trace answers.

    Args:
        traced: the trace.
        model: of the JSON contract.
        workload: with every default filled in.
        device: that is meant; None asks for the memory only.
        in_use: what others hold on it. [byte]
        settings: of the caching allocator.
        caveats: what has to be said.
    """
    found = levels(traced, settings)
    rank = _rank(found, traced.told, device)
    return Result(
        model=model,
        workload=workload,
        defaulted=(),
        ignored=(),
        ranks=(rank,),
        fit=None if device is None else fit(rank, device, in_use),
        caveats=(*caveats, *_caveats(traced.told), *no_caching_caveat(device)),
        not_modelled=NOT_MODELLED,
        extras={"traced": traced, "highest": found.highest, "outcome": found.outcome},
    )


def _rank(found: Levels, told: Mapping[str, Any], device: Device | None) -> Rank:
    peak = found.peak
    lines = _lines(found, told, peak)
    allocated = found.samples[peak][1]
    lines += _rounding(lines, allocated)
    if caching(device):
        words = f"what the allocator holds at most, {found.reserved:,} B, over what is allocated at the peak"
        held = found.reserved - allocated
        lines.append(exact("fragmentation", held, words, REPLAYED, tier="reserved", trust=DERIVED))
    lines += reserves(allocated, allocated, caching=False, device=device)
    if told.get("host"):
        lines.append(exact("optimizer_state", told["host"], "in memory that host and device share", PAGED, tier="host"))
    instants = found.instants()
    ranked = sorted(instants, key=lambda i: -i.bytes)
    best = next((p.name for p in found.parts if p.start <= peak < p.stop), ranked[0].name)
    return Rank(
        rank="pp0",
        multiplicity=1,
        static_bytes=_static(found, told),
        peak=Instant(best, allocated),
        runner_up=next((i for i in ranked if i.name != best), None),
        components=tuple(lines),
        instants=instants,
    )


def _static(found: Levels, told: Mapping[str, Any]) -> int:
    """What is resident between steps, in whole blocks. [byte]"""
    born = found.traced.born
    last = found.window[-1]
    alive = (born[n] for n in found.alive(last))
    return sum(blocks(b.size) for b in alive if component(b, told) in RESIDENT and b.kind != SCRATCH)


def _lines(found: Levels, told: Mapping[str, Any], peak: int) -> list[Component]:
    """Lines of tensors, and of what libraries and kernels took, at one event."""
    groups: dict[tuple[str, str], list[Born]] = {}
    for n in found.alive(peak):
        b = found.traced.born[n]
        group = b.kind if b.kind in (SCRATCH, WORKSPACE) else ""
        groups.setdefault((component(b, told), group), []).append(b)
    out = []
    for (name, group), born in groups.items():
        size = sum(b.size for b in born)
        if not size:
            continue
        if group == WORKSPACE:
            words = f"matrix products: {size:,} B, kept by each thread that runs them"
            out.append(exact(name, size, words, CUBLAS_REFERENCE, tier="allocated", trust=DERIVED))
        elif group == SCRATCH:
            words = f"taken by the kernel of {born[0].op}"
            out.append(exact(name, size, words, SCRATCHES, tier="allocated", trust=DERIVED))
        else:
            out.append(exact(name, size, *_told(born)[:2], terms=_told(born)[2]))
    tensors = [c for c in out if c.tier == "requested"]
    tensors.sort(key=lambda c: ORDER.index(c.name) if c.name in ORDER else len(ORDER))
    return [*tensors, *(c for c in out if c.tier != "requested")]


def _told(born: list[Born]) -> tuple[str, str, tuple[tuple[str, str, int], ...]]:
    """Words, reference and terms of a line: the largest groups of its tensors."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for b in born:
        what = f"{b.op.removeprefix('aten.').partition('.')[0]}{' in backward' if b.node else ''}"
        shape = f"{'x'.join(map(str, b.shape)) or '1'} {b.dtype}"
        entry = groups.setdefault((what, general(b.module), shape), [0, 0])
        entry[0] += 1
        entry[1] += b.size
    ranked = sorted(groups.items(), key=lambda item: -item[1][1])
    terms = tuple(
        (what, f"{count} x {shape}" + (f" of {module}" if module else ""), size)
        for (what, module, shape), (count, size) in ranked[:TERMS]
    )
    rest = len(ranked) - 2
    shown = "; ".join(f"{meaning} ({what})" for what, meaning, _ in terms[:2])
    words = f"{len(born)} storage{'s' if len(born) > 1 else ''}: {shown}" + (f" and {rest} more" if rest > 0 else "")
    return words, "the code that was traced", terms


def general(module: str) -> str:
    """A module's name with a star for each number.

    >>> general("model.layers.31.mlp")
    'model.layers.*.mlp'
    """
    return ".".join("*" if part.isdigit() else part for part in module.split("."))


def _rounding(lines: list[Component], allocated: int) -> list[Component]:
    """What the blocks are larger than what was asked for."""
    more = allocated - sum(c.bytes for c in lines)
    if not more:
        return []
    words = "every tensor takes whole blocks of 512 B, and what is left of a large block where it is not split"
    return [exact("rounding", more, words, ALLOCATOR, tier="allocated", trust=DERIVED)]


def _caveats(told: Mapping[str, Any]) -> tuple[str, ...]:
    out = [told["caveat"]] if told.get("caveat") else []
    if told.get("kernels"):
        out.append(f"attention ran as {' and '.join(told['kernels'])}")
    if told.get("fallback"):
        out.append(f"traced on meta tensors, without a stand-in for CUDA: {told['fallback']}")
    if told.get("resized"):
        out.append(f"storages were resized by {', '.join(told['resized'])}: their first size counts")
    if told.get("layers_traced") not in (None, "all"):
        out.append(f"{told['layers_traced']} of {told['layers']} layers were traced, the others are alike")
    return tuple(out)
