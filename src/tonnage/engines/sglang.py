"""SGLang: a fraction of what is free before loading holds weights and pools; the rest is left to everything else.

Read in the releases 0.4.4, 0.4.9, 0.5.5, 0.5.12 and 0.5.23 of https://github.com/sgl-project/sglang
(python/sglang/srt/server_args.py, then arg_groups/memory_hook.py; model_executor/model_runner.py, then
mem_cache/kv_cache_configurator.py). Nothing is profiled: the fraction follows from the device's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.engines import Deployment, Engine, Setting
from tonnage.errors import InputError, UnsupportedError
from tonnage.formats import FORMATS
from tonnage.memory.pool import kv_formats
from tonnage.memory.pool.kept import Kept, kept
from tonnage.memory.pool.pictured import ENCODERS, eager, lowered, sees
from tonnage.memory.pool.pooled import MOST_TOKENS, Load, rank
from tonnage.memory.pool.profiling import forward
from tonnage.memory.pool.ranked import Span, absorbed, adapters, kernel_padding, rank_weights, rotary_tables
from tonnage.memory.pool.refusals import refuse_quantization
from tonnage.memory.pool.registries import release_of
from tonnage.memory.pool.served import longest, narrowed
from tonnage.memory.pool.slots import Cells, Division, divided, sequences
from tonnage.memory.search import most_that
from tonnage.placement.serving import evenly, partition
from tonnage.placement.sharding import cuts
from tonnage.record import Record
from tonnage.releases import Releases
from tonnage.units import GiB, MiB

REFERENCE: Final = "https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/arg_groups/memory_hook.py"

WINDOWED: Final = ("llama4_text", "gpt_oss", "gemma4_text", "mimo_v2_flash", "laguna", "mellum", "beam", "granite_swa")
"""Models whose windows have a pool of their own; others keep every token. configs/model_config.py
``is_hybrid_swa_model``"""
SLOTS_EACH: Final = (5, 5, 3)
"""Slots of states that a running request may hold: three, and two that track it while prefixes are cached."""
FP32_ANGLES: Final = 4
"""The tables of angles stay in fp32 on CUDA. layers/rotary_embedding/base.py"""

PREFILL_GRAPHS: Final = (0, 5, 9)
"""Release from which on prompts run in CUDA graphs by default: 0.5.12 has them, 0.5.5 and a build of 2026-02-07 not."""

STARTED: Final = Span(140 * MiB, 550 * MiB, 1100 * MiB)
STARTED_BASIS: Final = "assumed: the process's context and its first handles, taken before anything is measured"
PEERS: Final = Span(300 * MiB, 500 * MiB, 1500 * MiB)
PEERS_BASIS: Final = "assumed: communicators; 342 MiB for 2 ranks and 392 MiB for 4 and 8 (aiconfigurator, H100)"
LOADED: Final = Span(0, 20 * MiB, 250 * MiB)
LOADED_BASIS: Final = "assumed: what loading leaves beside the weights: 0 to 0.22 GiB in three public logs"
GRAPHS: Final = Span(100 * MiB, 800 * MiB, 3000 * MiB)
GRAPHS_BASIS: Final = "assumed: CUDA graphs, outside the static fraction"

NOT_MODELLED: Final = (
    "what encoders of pictures and sound take at work, for which the fraction leaves room",
    "draft models; hierarchical caches; data-parallel attention; disaggregation",
    "layouts that kernels make of packed weights",
)


class Flags(Record):
    """What is asked and what the engine decides itself."""

    fraction: float
    chunk: int
    graphs: int
    page: int
    ratio: float
    states: float
    form: kv_formats.CacheFormat
    latent: bool


def deploy(model: Model, s: Setting) -> Deployment:
    """Divide every rank's static memory.

    Raises:
        UnsupportedError: understood, and not modelled yet.
        InputError: what the engine would refuse to start with.
    """
    s = narrowed(s, "bf16" if model.model_type.startswith("gemma") else "fp16")
    if s.said.get("language_model_only"):
        model = model.but(extra=tuple(t for t in model.extra if t.role not in ENCODERS))
    _check(model, s)
    layers = kept(model, cuts(s.mesh).dense)
    flags = _flags(model, s, layers)
    stages = partition(len(layers), s.mesh.pp)
    cells = [_cells(model, [layers[i] for i in stage], flags, s) for stage in stages]
    loads = [_load(model, s, flags, i, stages[i] if s.mesh.pp > 1 else None) for i in range(s.mesh.pp)]
    asked = -(-s.concurrency // s.mesh.dp)
    wide = max(range(s.mesh.pp), key=lambda i: cells[i].full + cells[i].window)
    need = _need(cells[wide], s.context, asked)
    capacity: dict[str, Any] = {
        "kv_bytes": need,
        "kv_bytes_per_token": cells[wide].full + (cells[wide].window if s.context < cells[wide].span else 0),
        "tokens": None, "blocks": None, "max_context": None, "max_concurrency": None, "log": [],
    }  # fmt: skip
    settled = {
        "dtype": s.dtype, "kv_dtype": flags.form.name, "mem_fraction_static": flags.fraction,
        "chunked_prefill_size": flags.chunk,
        "cuda_graph_max_bs": flags.graphs, "page_size": flags.page, "swa_full_tokens_ratio": flags.ratio,
        "mamba_full_memory_ratio": flags.states,
    }  # fmt: skip
    if s.device is None:
        ranks = [
            rank(f"pp{i}", s.mesh.tp * s.mesh.dp, load, Span(n, n, n), why="what is asked for", reference=REFERENCE,
                 deployed=False)
            for i, load in enumerate(loads) for n in [_need(cells[i], s.context, asked)]
        ]  # fmt: skip
        return Deployment(ranks=tuple(ranks), settled=settled, capacity=capacity, not_modelled=NOT_MODELLED)
    return _answer(model, s, flags, cells, loads, capacity, settled)


def _check(model: Model, s: Setting) -> None:
    if not any(kept(model, {}, entries=True)):
        raise UnsupportedError(
            f"sglang is modelled for models that write, and {model.model_type} keeps no cache", key="engine",
            value=model.model_type, hint="--engine vllm",
        )  # fmt: skip
    if s.mesh.cp > 1:
        raise UnsupportedError(f"cp = {s.mesh.cp}: not modelled for sglang", key="cp", value=s.mesh.cp)
    if s.mesh.ep > 1 and s.mesh.ep != s.mesh.tp:
        raise InputError(
            f"ep = {s.mesh.ep}: sglang spreads experts over the tp = {s.mesh.tp} ranks", key="ep", value=s.mesh.ep
        )
    reach = longest(model)
    if reach is not None and s.context > reach:
        raise InputError(
            f"sglang refuses to start: context = {s.context:,} is greater than the {reach:,} positions that "
            "the model's config states", key="context", value=s.context, hint=f"--context {reach}",
        )  # fmt: skip
    evenly((t for _, group in model.groups() for t in group), s.mesh)
    refuse_quantization("sglang", s.recipe, s.device, s.version)


def _flags(model: Model, s: Setting, layers: Sequence[Sequence[Kept]]) -> Flags:
    said, memory = s.said, _memory(s)
    form = kv_formats.chosen(
        said.get("kv_dtype"), kv_formats.SGLANG, s.dtype, s.version, kv_formats.declared(model.quantization), "sglang"
    )
    if any(k.kind == "indexer" for layer in layers for k in layer) and form.name == "fp8_e4m3":
        form = form.but(packed_latent=True)
    chunk = said.get("chunked_prefill_size") or _chunk(memory, s.version)
    graphs = said.get("cuda_graph_max_bs") or _graphs(memory, s.mesh.tp, s.version)
    latent = any(k.kind == "latent" for layer in layers for k in layer)
    blackwell = s.device is not None and s.device.architecture.startswith("sm_10")
    return Flags(
        fraction=_static(model, s, memory, chunk, graphs, latent),
        chunk=chunk,
        graphs=graphs,
        page=said.get("page_size") or (64 if blackwell and s.version >= (0, 5) else 1),
        ratio=said.get("swa_full_tokens_ratio") or 0.8,
        states=said.get("mamba_full_memory_ratio") or 0.9,
        form=form,
        latent=latent,
    )


def _memory(s: Setting) -> float | None:
    """Memory as the driver's tool prints it. [MiB]"""
    if s.device is None:
        return None
    return (s.device.driver_bytes or s.device.capacity.bytes) / MiB


def _chunk(memory: float | None, version: tuple[int, int]) -> int:
    """``chunked_prefill_size`` by the device's memory."""
    if memory is None:
        return 4096
    if version < (0, 5):
        return 2048 if memory < 35 * 1024 else 8192 if memory < 160 * 1024 else 16384
    tiers = ((20, 2048), (35, 4096), (60, 4096), (160, 8192))
    return next((n for most, n in tiers if memory < most * 1024), 16384)


def _graphs(memory: float | None, tp: int, version: tuple[int, int]) -> int:
    """Largest batch with a CUDA graph by the device's memory and tensor parallelism."""
    if version < (0, 5):
        return (8 if tp < 4 else 80) if memory is not None and memory < 35 * 1024 else 160
    if memory is None:
        return 160
    tiers = ((20, 8, 8), (35, 48, 160), (60, 32, 160), (160, 256, 512))
    return next((few if tp < 4 else many for most, few, many in tiers if memory < most * 1024), 512)


def _captured(chunk: int, latent: bool) -> int:
    """Token counts for which a prefill's graph is captured."""
    most = min(8192, chunk) if latent else chunk
    sizes = [
        *range(4, 33, 4), *range(48, 257, 16), *range(288, 513, 32), *range(576, 1025, 64), *range(1280, 4097, 256),
        *range(4608, most + 1, 512),
    ]  # fmt: skip
    return sum(n <= most for n in sizes)


def _static(model: Model, s: Setting, memory: float | None, chunk: int, graphs: int, latent: bool) -> float:
    """``mem_fraction_static``, less where there are encoders."""
    release, asked = release_of(s.said.get("engine_version"), s.version), s.said.get("mem_fraction_static")
    seen = sees(model, s.said, release)
    prefill = _captured(chunk, latent) if release >= PREFILL_GRAPHS and not (seen and eager(model, release)) else 0
    found = asked or _fraction(memory, s, chunk, graphs, prefill, latent)
    return lowered(found, model, asked=asked is not None, release=release) if seen else found


def _fraction(memory: float | None, s: Setting, chunk: int, graphs: int, prefill: int, latent: bool) -> float:
    """``mem_fraction_static``: what is not reserved for activations and graphs; ``prefill`` are those of prompts."""
    if memory is None:
        return 0.95 if s.version >= (0, 5) else 0.88
    ranks = s.mesh.tp * s.mesh.pp
    if s.version < (0, 5):
        tiers = ((35, (2.8 + ranks / 10) * 1024), (90, (9.5 + ranks / 2) * 1024), (160, (12 + ranks / 2) * 1024))
        reserved = next((n for most, n in tiers if memory < most * 1024), 32 * 1024.0)
        return round((memory - reserved) / memory, 3)
    reserved = 512 + max(chunk, 2048) * 1.5 + ranks / 8 * 1024 + 2 * graphs
    reserved += 1536 if latent and prefill else 8 * prefill
    if memory > 60 * 1024:
        reserved = max(reserved, 10 * 1024)
    return round((memory - reserved) / memory, 3)


def _cells(model: Model, layers: Sequence[Sequence[Kept]], flags: Flags, s: Setting) -> Cells:
    """Bytes of a token, of a window's token and of a slot on a rank of one stage."""
    apart = model.model_type in WINDOWED and s.version >= (0, 5)
    full = window = state = span = 0
    for k in (k for layer in layers for k in layer):
        if k.kind == "state":
            state += _state(k, s)
        elif k.kind in ("sliding", "chunked") and apart:
            window, span = window + flags.form.token(k), max(span, k.window or 0)
        else:
            full += flags.form.token(k)
    return Cells(full, window, state, span)


def _state(k: Kept, s: Setting) -> int:
    """Bytes of a layer's states: convolutions in bf16, recurrences in fp32 unless said otherwise."""
    asked = s.said.get("mamba_ssm_cache_dtype")
    wide = 4 if asked in (None, "auto") else kv_formats.state_width(asked, s.dtype)
    return sum(x.elements * ((x.taps - 1) * 2 if x.taps else wide) for x in k.states)


def _load(model: Model, s: Setting, flags: Flags, stage: int, layers: range | None) -> Load:
    form, mesh = FORMATS[s.dtype], s.mesh
    architecture = s.device.architecture if s.device is not None else "sm_90"
    extras = (
        rotary_tables(model, FP32_ANGLES if s.device is None or s.device.vendor == "NVIDIA" else form.bytes),
        absorbed(model, mesh, layers) if s.recipe is not None else None,
        adapters(model, mesh, form, s.said.get("max_loras") or 0, s.said.get("max_lora_rank") or 16, layers),
        kernel_padding(model, s.recipe, mesh, architecture, layers, kept=True),
    )
    shares = rank_weights(model, form, s.recipe, mesh, stage)
    if s.device is None:
        return Load(shares, tuple(e for e in extras if e is not None))
    body, residual = forward(model, mesh, flags.chunk, form.bytes), flags.chunk * model.width * form.bytes
    logits = flags.graphs * model.vocabulary * 6
    peak = Span(body + 2 * residual, max(body + 3 * residual, logits), max(body + 4 * residual, 2 * logits))
    outside = [("other:non-torch", LOADED, LOADED_BASIS), ("cuda_graphs", GRAPHS, GRAPHS_BASIS)]
    if mesh.world > 1:
        outside.append(("communication", PEERS, PEERS_BASIS))
    return Load(
        shares=shares,
        extras=tuple(e for e in extras if e is not None),
        peak=peak,
        peak_why=f"forward pass of {flags.chunk:,} tokens, widest layer; logits of {flags.graphs:,} rows",
        instant="prefill",
        outside=tuple(outside),
    )


def room(s: Setting, flags: Flags, load: Load) -> Span:
    """Bytes that a rank's fraction leaves to its pools."""
    assert s.device is not None
    c, weights = s.device.capacity, load.weights.allocated
    peers = PEERS if s.mesh.world > 1 else Span(0, 0, 0)
    free = (
        c.low - STARTED.high - peers.high - s.in_use,
        c.bytes - STARTED.likely - peers.likely - s.in_use,
        c.high - STARTED.low - peers.low - s.in_use,
    )
    low, likely, high = (int(n * flags.fraction) - weights for n in free)
    return Span(low - LOADED.high, likely - LOADED.likely, high - LOADED.low)


def _need(cells: Cells, context: int, asked: int) -> int:
    """State of the sequences while decoding. [byte]"""
    return asked * (cells.full * context + cells.window * min(context, cells.span or context) + cells.state)


def _answer(
    model: Model, s: Setting, flags: Flags, cells: Sequence[Cells], loads: Sequence[Load], capacity: dict[str, Any],
    settled: dict[str, Any],
) -> Deployment:  # fmt: skip
    rooms = [room(s, flags, load) for load in loads]
    slots, asked = s.said.get("max_mamba_cache_size"), -(-s.concurrency // s.mesh.dp)
    found: list[list[Division]] = [
        [
            divided(max(getattr(r, bound), 0), c, page=flags.page, ratio=flags.ratio, states=flags.states, slots=slots)
            for r, c in zip(rooms, cells, strict=True)
        ]
        for bound in ("low", "likely", "high")
    ]
    holds = [
        min(sequences(d, c, s.context, each) for d, c in zip(ds, cells, strict=True))
        for ds, each in zip(found, SLOTS_EACH, strict=True)
    ]
    low, likely, high = found
    first = likely[0]

    def fits(tokens: int) -> bool:
        return all(sequences(d, c, tokens, SLOTS_EACH[1]) >= asked for d, c in zip(likely, cells, strict=True))

    capacity |= {
        "tokens": min(d.tokens for d in likely),
        "blocks": min(d.tokens for d in likely) // flags.page if flags.page > 1 else None,
        "max_concurrency": int(holds[1]) * s.mesh.dp,
        "max_context": most_that(fits, longest(model) or MOST_TOKENS),
        "log": _log(s, flags, cells[0], first, loads[0]),
    }
    ranks = [
        rank(
            f"pp{i}", s.mesh.tp * s.mesh.dp, load, Span(low[i].kv_bytes, likely[i].kv_bytes, high[i].kv_bytes),
            why=f"{likely[i].tokens:,} tokens x {cells[i].full + cells[i].window:,} B of this rank",
            reference=REFERENCE, deployed=True,
            states=((("slots", likely[i].state_bytes, f"{likely[i].slots:,} slots and one that pads"),)),
        )
        for i, load in enumerate(loads)
    ]  # fmt: skip
    spare = min(
        d.kv_bytes + d.state_bytes + min(r.likely, 0) - _need(c, s.context, asked)
        for d, c, r in zip(likely, cells, rooms, strict=True)
    )
    return Deployment(
        ranks=tuple(ranks),
        settled=settled,
        capacity=capacity,
        held=(holds[0] * s.mesh.dp, holds[1] * s.mesh.dp, holds[2] * s.mesh.dp),
        spare=spare,
        caveats=tuple(_caveats(model, s, flags, holds[1], rooms)),
        not_modelled=NOT_MODELLED,
    )


def _log(s: Setting, flags: Flags, cells: Cells, d: Division, load: Load) -> list[str]:
    """The engine's own lines; what it calls GB is GiB."""
    words = {
        "bf16": "torch.bfloat16",
        "fp16": "torch.float16",
        "fp32": "torch.float32",
        "fp8_e4m3": "torch.float8_e4m3fn",
    }
    dtype = f"dtype: {words.get(flags.form.name, flags.form.name)}, " if s.version >= (0, 5) else ""
    out = [f"Load weight end. ... mem usage={(load.weights.allocated + LOADED.likely) / GiB:.2f} GB."]
    if d.tokens <= 0:
        return [
            *out,
            "Not enough memory. Please try to increase --mem-fraction-static. Current value: "
            f"mem_fraction_static={flags.fraction}",
        ]
    if cells.window and cells.full:
        out.append(f"Use sliding window memory pool. full_layer_tokens={d.tokens}, swa_layer_tokens={d.window_tokens}")
    if cells.state:
        out.append(f"Mamba Cache is allocated. max_mamba_cache_size: {d.slots}")
    size = d.kv_bytes / GiB
    halves = f"K size: {size / 2:.2f} GB, V size: {size / 2:.2f} GB"
    out.append(
        f"KV Cache is allocated. {dtype}#tokens: {d.tokens}, "
        + (halves if _two(flags, cells) else f"KV size: {size:.2f} GB")
    )
    out.append(
        f"max_total_num_tokens={d.tokens}, chunked_prefill_size={flags.chunk}, max_prefill_tokens=16384, "
        f"context_len={s.context}"
    )
    return out


def _two(flags: Flags, cells: Cells) -> bool:
    """Whether keys and values are printed apart: latents, and two pools together, are printed as one."""
    return cells.window == 0 and not flags.latent


def _caveats(model: Model, s: Setting, flags: Flags, holds: float, rooms: Sequence[Span]) -> list[str]:
    out = []
    if max(r.high for r in rooms) <= 0:
        out.append(
            f"sglang does not start: loaded weights leave no memory under mem_fraction_static = {flags.fraction}"
        )
    elif holds * s.mesh.dp < s.concurrency:
        out.append(f"from {int(holds * s.mesh.dp) + 1:,} sequences of {s.context:,} tokens on, requests queue")
    windows = any(k.kind in ("sliding", "chunked") for layer in kept(model, {}) for k in layer)
    if windows and (model.model_type not in WINDOWED or s.version < (0, 5)):
        out.append("sglang keeps every token of this model's windowed layers")
    return out


ENGINE: Final = Engine(
    name="sglang",
    releases=Releases("sglang", newest=(0, 5), oldest=(0, 4), last={}),
    takes=(
        "mem_fraction_static", "chunked_prefill_size", "cuda_graph_max_bs", "max_mamba_cache_size", "page_size",
        "swa_full_tokens_ratio", "mamba_full_memory_ratio", "max_loras", "max_lora_rank", "mamba_ssm_cache_dtype",
        "enable_multimodal", "language_model_only",
    ),
    reference=REFERENCE,
    deploy=deploy,
    listed=True,
)  # fmt: skip
