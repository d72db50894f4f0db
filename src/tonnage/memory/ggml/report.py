"""A context's buffers as lines of a result, and as llama.cpp's log prints them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.evidence import ASSUMED, DERIVED, EXACT
from tonnage.memory.ggml.build import Build
from tonnage.memory.ggml.cache import PRINTED
from tonnage.memory.ggml.vision.served import Seen, components
from tonnage.memory.overhead import CONTEXT, CONTEXT_BASIS
from tonnage.timeline import Component, Instant, Rank, exact, ranged
from tonnage.units import MiB

POOL: Final = (0, 48 * MiB, 512 * MiB)
POOL_BASIS: Final = (
    "assumed: the backend's pool, which grows with the work: activations packed for quantized products, fp16 copies "
    "for cuBLAS, cuBLAS's own workspace"
)
OLDER: Final = (0.6, 2.1)
"""Compute buffers of builds before 0.5 and of the fork, over that of 0.5."""
OLDER_BASIS: Final = (
    "not compared with this build: 0.65 to 2.04 of this figure on eleven logs of builds from March 2024 to July 2025 "
    "(ggml-org/ci, ik_llama.cpp discussions)"
)


def ranks(b: Build, reference: str, draft: Build | None = None, pictures: Seen | None = None) -> tuple[Rank, ...]:
    """One rank for each accelerator; host lines stand with the first, a draft model's beside those of the model."""
    names = b.asked.names
    out = []
    for i in b.devices:
        found: list[Component] = []
        for part in (b, draft):
            if part is None:
                continue
            lines = [*_device(part, i, reference)] if names else []
            lines += [*_host(part, reference)] if i == 0 else []
            found += lines if part is b else [c.but(why=f"draft model: {c.why}") for c in lines]
        if pictures is not None:
            found += components(pictures, i if names else -1, i == 0, reference)
        found += [*_reserves(reference)] if names else []
        total = sum(c.bytes for c in found if c.tier in ("requested", "allocated"))
        grown = pictures.grows(i) if pictures is not None and names else 0
        loaded = sum(c.bytes for c in found if c.name == "weights" and c.tier == "requested")
        instants = [Instant("weights are loaded", loaded), Instant("the server is ready", total - grown)]
        if grown:
            instants.append(Instant("the largest picture is read", total))
        out.append(
            Rank(
                rank=f"pp{i}",
                multiplicity=1,
                static_bytes=total - grown,
                peak=instants[-1],
                runner_up=instants[-2],
                components=tuple(found),
                instants=tuple(instants),
            )
        )
    return tuple(out)


def _device(b: Build, i: int, reference: str) -> Iterator[Component]:
    name, c = b.asked.names[i], b.plan.cells
    size = b.weights.devices[i]
    if size:
        tied = f", {b.weights.tied:,} B of them the table of tokens once more, as the output" if b.weights.tied else ""
        yield exact("weights", size, f"{name} model buffer: {_parts(b, i)} layers{tied}", reference, trust=DERIVED)
    if b.caches.on(i):
        yield exact("kv_cache", b.caches.on(i), _cache_words(b, i), reference, trust=EXACT)
    if b.caches.states[i]:
        words = f"{name} RS buffer: {c.slots} slots of states in fp32"
        yield exact("recurrent_state", b.caches.states[i], words, reference, trust=EXACT)
    yield from _compute(b, i, f"{name} compute buffer", reference, "requested")


def _reserves(reference: str) -> Iterator[Component]:
    """What the process takes beside its buffers."""
    low, likely, high = POOL
    yield ranged("workspace", low, likely, high, POOL_BASIS, reference, tier="allocated", trust=ASSUMED)
    low, likely, high = CONTEXT
    yield ranged("context", low, likely, high, CONTEXT_BASIS, reference, tier="device", trust=ASSUMED)


def _parts(b: Build, i: int) -> int:
    """Layers whose weights a device holds."""
    return sum(b.asked.placing.of_layer(n) == i for n in range(b.asked.placing.layers))


def _cache_words(b: Build, i: int) -> str:
    c, a = b.plan.cells, b.asked
    full = f"{c.each:,} cells" + (f" x {c.streams} streams" if c.streams > 1 else "")
    window = f"; {c.window:,} cells of windowed layers" if b.caches.window[i] and c.window else ""
    return f"KV buffer: {full}{window}; K in {PRINTED.get(a.k, a.k)}, V in {PRINTED.get(a.v, a.v)}"


def _compute(b: Build, i: int, words: str, reference: str, tier: str) -> Iterator[Component]:
    """The compute buffer, or its range."""
    p = b.plan
    shape = f"{p.tokens:,} tokens, {p.outputs:,} outputs, flash attention {'on' if p.flash else 'off'}"
    if b.compute is None:
        host = i == len(b.asked.names) and b.asked.names
        if b.rough is not None and not host:
            basis = f"{words}, {shape}: the graph is not known; from the widest results that it must hold"
            yield ranged("activations", b.rough.low, b.rough.likely, b.rough.high, basis, reference, tier=tier)
        return
    size = b.compute[i]
    if not size:
        return
    if b.asked.older:
        low, high = (int(size * share) for share in OLDER)
        yield ranged("activations", low, size, high, f"{words}, {shape}; {OLDER_BASIS}", reference, tier=tier)
        return
    yield exact("activations", size, f"{words}: {shape}, the worst-case graph laid out", reference, tier=tier,
                trust=DERIVED)  # fmt: skip


def _host(b: Build, reference: str) -> Iterator[Component]:
    a, host = b.asked, len(b.asked.names)
    if b.weights.host:
        how = "mapped from the file" if a.mmap else "read into memory"
        how += ", locked there" if a.mlock else ""
        yield exact("weights", b.weights.host, f"{_host_name(b)} model buffer: {how}", reference, tier="host",
                    trust=DERIVED)  # fmt: skip
    if b.weights.repacked:
        words = "CPU_REPACK model buffer: matrices laid out anew, as on a CPU with AVX2"
        yield exact("weights", b.weights.repacked, words, reference, tier="host", trust=DERIVED)
    if b.caches.on(host):
        yield exact("kv_cache", b.caches.on(host), f"CPU {_cache_words(b, host)}", reference, tier="host")
    if b.caches.states[host]:
        yield exact("recurrent_state", b.caches.states[host], "CPU RS buffer", reference, tier="host")
    yield from _compute(b, host, f"{_compute_name(b)} compute buffer", reference, "host")
    words = f"{_compute_name(b)} output buffer: {a.sequences} rows of logits"
    yield exact("logits", b.output, words, reference, tier="host")


def _host_name(b: Build) -> str:
    """The host's model buffer: mapped, or pinned where an accelerator is there."""
    if b.asked.mmap:
        return "CPU_Mapped"
    return "CUDA_Host" if b.asked.cuda and b.asked.names else "CPU"


def _compute_name(b: Build) -> str:
    return "CUDA_Host" if b.asked.cuda and b.asked.names else "CPU"


# The log.


def log(b: Build) -> Iterator[str]:
    """The lines that tell sizes, as v0.5.0 prints them."""
    a, host = b.asked, len(b.asked.names)
    mapped = b.weights.mapped if a.mmap else b.weights.host
    if mapped:
        yield _line("load_tensors", _host_name(b), 12, "model", mapped)
    if b.weights.repacked:
        yield _line("load_tensors", "CPU_REPACK", 12, "model", b.weights.repacked)
    for name, size in zip(a.names, b.weights.devices, strict=True):
        if size:
            yield _line("load_tensors", name, 12, "model", size)
    yield _line("llama_context", _compute_name(b), 10, " output", b.output)
    where = (*a.names, "CPU")
    for part, sizes in (("KV", b.caches.full), ("KV", b.caches.window)):
        order = [host, *range(host)]
        for i in order:
            if sizes[i]:
                yield _line("llama_kv_cache", where[i], 10, part, sizes[i])
    for i in (host, *range(host)):
        if b.caches.states[i]:
            yield _line("llama_memory_recurrent", where[i], 10, "RS", b.caches.states[i])
    if b.compute is not None and not a.older:
        for i in range(host + 1):
            name = where[i] if i < host else _compute_name(b)
            if b.compute[i] > 1:
                yield _line("sched_reserve", name, 10, "compute", b.compute[i])


def _line(function: str, buffer: str, width: int, what: str, size: int) -> str:
    return f"{function}: {buffer:>{width}} {what} buffer size = {size / MiB:8.2f} MiB"
