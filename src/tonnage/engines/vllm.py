"""vLLM: a share of the device, less weights and what a profile run reaches, is one pool of pages.

Every rule names the release from which on it holds; all were read in the source of the releases 0.6.6 to 0.33.0 of
https://github.com/vllm-project/vllm (vllm/v1/worker/gpu_worker.py, vllm/v1/core/kv_cache_utils.py and
kv_cache_planning.py, vllm/engine/arg_utils.py, vllm/config/).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.engines import Deployment, Engine, Setting
from tonnage.errors import InputError, UnsupportedError
from tonnage.formats import FORMATS
from tonnage.memory.overhead import cublas_workspace
from tonnage.memory.pool import kv_formats, paging
from tonnage.memory.pool.embedding import decoder, outputs, pooled, without_head
from tonnage.memory.pool.kept import Kept, kept
from tonnage.memory.pool.loaded import offloaded
from tonnage.memory.pool.media import ENCODERS, asked, profiled, without_encoders
from tonnage.memory.pool.pooled import MOST_TOKENS, Load, rank
from tonnage.memory.pool.processors import GEMMA4, GEMMA4_VIDEO
from tonnage.memory.pool.profiling import Batch, Encoded, experts, profile
from tonnage.memory.pool.ranked import (
    Span,
    absorbed,
    adapters,
    in_blocks,
    kernel_padding,
    rank_tensors,
    rotary_tables,
)  # fmt: skip
from tonnage.memory.pool.refusals import refuse_quantization
from tonnage.memory.pool.reserves import VLLM_GRAPHS, VLLM_OUTSIDE
from tonnage.memory.pool.served import Served, decoding, longest, narrowed, prediction
from tonnage.memory.pool.vllm_flags import refuse_cache, refuse_settings, refuse_sparse
from tonnage.memory.pool.vllm_pages import ALIGNED, Flags, demand, pages, preferred, shards
from tonnage.memory.search import most_that
from tonnage.memory.weights import shares as plain_shares
from tonnage.memory.weights import total
from tonnage.placement.serving import evenly, partition
from tonnage.placement.sharding import cuts
from tonnage.releases import Releases, Since, since
from tonnage.timeline import Rank
from tonnage.units import GiB

REFERENCE: Final = "https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/v1/worker/gpu_worker.py"

UTILIZATION: Final[Since[float]] = (((0, 20), 0.92), ((0, 0), 0.9))
PREFIXES: Final[Since[bool]] = (((0, 26), True), ((0, 0), False))
"""Whether prefixes are cached by default in models with states; others cache them since 0.8."""
GRAPHS: Final[Since[bool]] = (((0, 20), True), ((0, 0), False))
"""Whether the profile run's estimate of CUDA graphs is taken off the pool."""

GRIDS: Final[Since[int]] = (((0, 7), 4), ((0, 0), 1))
"""Rows of the table of angles for one position, where positions have three dimensions."""


UNSTABLE: Final = ("gemma2", "gemma3", "gemma3_text", "glm4")
"""Models that are not run in fp16. vllm/config/model.py ``_FLOAT16_NOT_SUPPORTED_MODELS``"""
LARGE, LARGEST = 70 * GiB, 160 * GiB
V4: Final = (0, 20)
"""Release from which on DeepSeek-V4's layers are there."""
V1, AUTO = (0, 8), (0, 10)
"""Releases of the second engine, and of formats that fall back to what the device has."""

WHOLE_ITEMS: Final = (0, 22)
"""Release from which on a step holds the largest picture or video that attends to itself both ways (Gemma 4)."""

NOT_MODELLED: Final = (
    "layouts that kernels make of packed weights",
    "draft models beside the checkpoint's own prediction layer",
)

UNKNOWN_ENCODER: Final = "encoders of this kind in the profile run"


def deploy(model: Model, s: Setting) -> Deployment:
    """Plan the pool of every rank.

    Raises:
        UnsupportedError: understood, and not modelled yet.
        InputError: what the engine would refuse to start with.
    """
    wide = model.model_type if model.model_type in UNSTABLE and s.version >= AUTO else ""
    s = narrowed(s, "bf16" if s.version >= AUTO else "fp16", falls_back=s.version >= AUTO, wide=wide)
    media = asked(s.said, s.version)
    model = without_encoders(model, media, s.version)
    if pooled(model, s.said):
        model = without_head(model, s.version)
    _check(model, s)
    layers = kept(model, cuts(s.mesh).dense, entries=s.version >= V4)
    flags = _flags(model, s, layers)
    kv_formats.refuse(flags.form, layers, "vllm")
    refuse_sparse(layers, s.device)
    refuse_cache(flags.form, s.device, s.version)
    found, notes = pages(model, layers, flags, s)
    stages = partition(len(layers), s.mesh.pp)
    seen = profiled(model, s.mesh, media, flags.batch, s.context, s.version, width=FORMATS[s.dtype].bytes)
    loads = [
        _load(model, s, flags, i, stages[i] if s.mesh.pp > 1 else None, None if i else seen.encoded)
        for i in range(s.mesh.pp)
    ]
    notes += (seen.line,) if seen.line else ()
    held_by = [[i for i, (layer, _) in enumerate(found) if layer in stage] for stage in stages]
    served = Served(
        model=model, setting=s, flags=flags, loads=tuple(loads), pages=tuple(page for _, page in found),
        stages=tuple(tuple(h) for h in held_by), demand=demand(model, layers, flags, s), notes=notes,
    )  # fmt: skip
    answer = _answer(served, layers)
    return answer.but(not_modelled=(*answer.not_modelled, UNKNOWN_ENCODER)) if seen.unknown else answer


def _check(model: Model, s: Setting) -> None:
    if s.mesh.cp > 1:
        raise UnsupportedError(
            f"cp = {s.mesh.cp}: vllm's parallelism over a prompt is not modelled yet", key="cp", value=s.mesh.cp,
            hint="--decode-context-parallel-size shares a sequence's cache over the tp ranks",
        )  # fmt: skip
    if s.mesh.ep > 1 and s.mesh.ep != s.mesh.tp * s.mesh.dp:
        raise InputError(
            f"ep = {s.mesh.ep}: vllm spreads experts over all tp x dp = {s.mesh.tp * s.mesh.dp} ranks",
            key="ep", value=s.mesh.ep,
        )  # fmt: skip
    reach = longest(model)
    if reach is not None and s.context > reach:
        raise InputError(
            f"vllm refuses to start: context = {s.context:,} is greater than the {reach:,} positions that "
            "the model's config states", key="context", value=s.context,
            hint=f"--context {reach}",
        )  # fmt: skip
    if s.version < V1 and any(k.kind == "state" for layer in kept(model, {}) for k in layer):
        raise UnsupportedError("vllm before 0.8 keeps states apart from its pool: not modelled", key="engine_version")
    evenly((t for _, group in model.groups() for t in group), s.mesh)
    refuse_quantization("vllm", s.recipe, s.device, s.version)
    refuse_settings(s.said, s.version, many=experts(model), pictures=any(t.role in ENCODERS for t in model.extra))


def _flags(model: Model, s: Setting, layers: Sequence[Sequence[Kept]]) -> Flags:
    """What is asked, and what follows from the model and the device."""
    said, kinds = s.said, {k.kind for layer in layers for k in layer}
    form = kv_formats.chosen(
        said.get("kv_dtype"), kv_formats.VLLM, s.dtype, s.version,
        kv_formats.declared(model.quantization) if s.version >= (0, 14) and s.recipe is not None else None, "vllm",
    )  # fmt: skip
    if ("entries" in kinds and said.get("kv_dtype") in (None, "auto")) or (
        kinds & {"indexer", "entries"} and form.name.startswith("fp8")
    ):
        form = kv_formats.VLLM["fp8_ds_mla"]
    state = "state" in kinds
    prefixes = said.get("prefix_caching")
    if prefixes and state and s.version < ALIGNED:
        raise UnsupportedError(
            "prefix_caching: before 0.16 vllm kept a state for every page of a prefix, or none: not modelled",
            key="prefix_caching", value=True, hint="--engine-version 0.16",
        )  # fmt: skip
    if prefixes is None:
        prefixes = since(s.version, PREFIXES) if state else s.version >= V1
    return Flags(
        utilization=said.get("gpu_memory_utilization") or since(s.version, UTILIZATION),
        batch=_batch(s, model),
        block=said.get("block_size") or preferred(kinds, s.device),
        prefixes=prefixes,
        eager=bool(said.get("enforce_eager")),
        drafts=said.get("speculative_tokens") or 0,
        form=form,
        dtype=s.dtype,
        ssm=said.get("mamba_ssm_cache_dtype"),
        shards=shards(model, s, kinds),
        pooled=pooled(model, said),
    )


def _batch(s: Setting, model: Model) -> Batch:
    """Tokens and requests of one step: ``get_batch_defaults`` for a server.

    The first engine reads prompts in chunks where they are long, unless they have pictures, of which a step holds one.
    Models that only read take a prompt whole; so does Gemma 4 a picture or a video.
    """
    pictures = any(t.role in ENCODERS for t in model.extra)
    total = s.device.capacity.bytes if s.device is not None else 0
    large = s.version >= V1 and total >= LARGE and not (s.device is not None and s.device.name.startswith("a100"))
    if s.version < V1:
        chunked = s.context > 32768 and not pictures
        tokens, rows = (2048 if chunked else max(s.context, 5120 if pictures else 2048)), 256
    elif s.version >= (0, 28) and total >= LARGEST:
        tokens, rows = 16384, 1024
    else:
        tokens, rows = (8192, 1024) if large else (2048, 256)
    if not model.causal and len(model.stacks) == 1:
        tokens = max(tokens, s.context)
    if pictures and (model.whole_type or model.model_type) in GEMMA4 and s.version >= WHOLE_ITEMS:
        tokens = max(tokens, GEMMA4_VIDEO)
    rows = s.said.get("max_num_seqs") or rows
    tokens = s.said.get("max_num_batched_tokens") or (min(tokens, rows * s.context) if s.version >= (0, 9) else tokens)
    if s.said.get("max_num_seqs") and tokens < rows:
        raise InputError(
            f"max_num_batched_tokens = {tokens:,} is fewer than max_num_seqs = {rows:,}, which vllm refuses",
            key="max_num_batched_tokens", value=tokens,
        )  # fmt: skip
    return Batch(tokens, min(rows, tokens))


def _load(model: Model, s: Setting, flags: Flags, stage: int, layers: range | None, encoder: Encoded | None) -> Load:
    """What a rank of one stage holds before it has a pool."""
    form, mesh, last = FORMATS[s.dtype], s.mesh, stage == s.mesh.pp - 1
    architecture = s.device.architecture if s.device is not None else "sm_90"
    extras = [
        rotary_tables(model, form.bytes, grids=since(s.version, GRIDS)),
        absorbed(model, mesh, layers) if s.recipe is not None else None,
        adapters(model, mesh, form, s.said.get("max_loras") or 0, s.said.get("max_lora_rank") or 16, layers),
        prediction(model, s) if flags.drafts and last else None,
        decoder(model, form.bytes, s.version) if flags.pooled and last else None,
        kernel_padding(model, s.recipe, mesh, architecture, layers, kept=s.version < (0, 25)),
    ]
    most = s.said.get("cpu_offload") or 0
    found = rank_tensors(model, form, s.recipe, mesh, stage, doubled=True, ordered=most > 0)
    stay, gone = offloaded(found, form, most)
    shares, moved = in_blocks(stay, form), total(plain_shares(gone, form)).requested
    pages_there = (s.said.get("kv_offloading_size") or 0) // (mesh.tp * mesh.pp)
    host = (
        ("weights", moved, "layers that the device reads in host memory, pinned"),
        ("kv_cache", pages_there, "pages that are kept for later, this rank's part"),
    )
    outside: list[tuple[str, Span, str]] = []
    if s.device is None:
        return Load(shares, tuple(e for e in extras if e is not None), host=host)
    batch = flags.batch if last else flags.batch.but(rows=0)
    peak = profile(
        model, mesh, batch, s.version, width=form.bytes, longest=s.context,
        compiled=not flags.eager and s.version >= V1, encoder=encoder,
        pooler=outputs(model, batch.tokens, batch.rows, form.bytes, s.version) if flags.pooled else None,
    )  # fmt: skip
    one, several, basis = since(s.version, VLLM_OUTSIDE)
    outside.append(("other:non-torch", several if mesh.world > 1 else one, basis))
    if since(s.version, GRAPHS) and not flags.eager:
        outside.append(("cuda_graphs", *VLLM_GRAPHS))
    return Load(
        shares=shares,
        extras=tuple(e for e in extras if e is not None),
        peak=Span(peak.low, peak.likely, peak.high),
        peak_why=peak.why,
        instant=peak.instant,
        runner_up=peak.runner_up,
        resident=(("sampler state", peak.resident, "counts and prompts of every row and token"),),
        workspace=cublas_workspace(s.device.architecture),
        outside=tuple(outside),
        host=host,
    )


def budget(s: Setting, flags: Flags, load: Load) -> Span:
    """Bytes that a rank leaves to its pool."""
    assert s.device is not None
    own = s.said.get("kv_cache_memory")
    if own is not None:
        return Span(own, own, own)
    c, before = s.device.capacity, load.before
    low, likely, high = (math.ceil(n * flags.utilization) for n in (c.low, c.bytes, c.high))
    return Span(low - before.high, likely - before.likely, high - before.low)


def _budgets(served: Served) -> list[Span]:
    """Bytes of every stage's pool; a number of blocks that is said wins over what is free."""
    s = served.setting
    found = [budget(s, served.flags, load) for load in served.loads]
    blocks = s.said.get("num_gpu_blocks_override")
    if blocks is None:
        return found
    pool = planned(served, found, s.context)[1]
    sizes = [blocks * paging.stage_bytes(pool, stage) for stage in served.stages]
    return [Span(n, n, n) for n in sizes]


def planned(served: Served, budgets: Sequence[Span], longest: int) -> tuple[paging.Pool, paging.Pool, paging.Pool]:
    """The pool at least, likely and at most."""
    found: list[paging.Pool] = []
    for bound in ("low", "likely", "high"):
        ranks = [(stage, getattr(b, bound)) for stage, b in zip(served.stages, budgets, strict=True)]
        found.append(paging.plan(served.pages, 0, longest, served.demand, served.setting.version, ranks=ranks))
    return found[0], found[1], found[2]


def _answer(served: Served, layers: Sequence[Sequence[Kept]]) -> Deployment:
    s, flags = served.setting, served.flags
    kv_bytes, per_token = decoding(
        served.pages,
        served.stages,
        s.context,
        -(-s.concurrency // s.mesh.dp),
        served.demand,
    )
    capacity: dict[str, Any] = {
        "kv_bytes": kv_bytes, "kv_bytes_per_token": per_token, "tokens": None, "blocks": None, "max_context": None,
        "max_concurrency": None, "log": [],
    }  # fmt: skip
    settled = {
        "dtype": s.dtype, "kv_dtype": flags.form.name,
        "gpu_memory_utilization": flags.utilization, "prefix_caching": flags.prefixes,
        "max_num_batched_tokens": flags.batch.tokens, "max_num_seqs": flags.batch.rows,
        "runner": "pooling" if flags.pooled else "generate",
        "enforce_eager": flags.eager, "speculative_tokens": flags.drafts or None,
        "block_size": served.pages[0].block if served.pages else flags.block,
    }  # fmt: skip
    if s.device is None or not served.pages:
        held_bytes = Span(kv_bytes, kv_bytes, kv_bytes)
        return Deployment(
            ranks=tuple(_ranks(served, [held_bytes] * s.mesh.pp, "what is asked for")), settled=settled,
            capacity=capacity, not_modelled=NOT_MODELLED,
        )  # fmt: skip
    from tonnage.memory.pool.log import caveats, lines, stopped

    budgets = _budgets(served)
    pools = planned(served, budgets, s.context)
    likely = pools[1]
    asked = -(-s.concurrency // s.mesh.dp)
    capacity |= {
        "tokens": likely.tokens,
        "blocks": likely.blocks,
        "max_concurrency": int(likely.blocks // likely.per_request) * s.mesh.dp if likely.holds_one else 0,
        "max_context": _longest(served, likely, asked),
        "log": lines(served, budgets, likely),
    }
    spans = [
        Span(*(p.blocks * paging.stage_bytes(p, stage) for p in pools)) for stage in served.stages
    ]  # fmt: skip
    why = f"{likely.blocks:,} blocks of {likely.page_tokens:,} tokens for each of {len(likely.groups)} tables"
    return Deployment(
        ranks=tuple(_ranks(served, spans, why)),
        settled=settled,
        capacity=capacity,
        held=_held(pools, s.mesh.dp) if stopped(served, budgets) is None else (0.0, 0.0, 0.0),
        spare=min(
            b.likely - asked * likely.per_request * paging.stage_bytes(likely, stage)
            for b, stage in zip(budgets, served.stages, strict=True)
            if stage
        ),
        caveats=caveats(served, budgets, pools),
        not_modelled=NOT_MODELLED,
    )


def _held(pools: Sequence[paging.Pool], dp: int) -> tuple[float, float, float]:
    """Whole requests that the pool holds at least, likely and at most; none where it does not start."""
    least, likely, most = (p.concurrency * dp if p.holds_one else 0.0 for p in pools)
    return least, likely, most


def _longest(served: Served, pool: paging.Pool, asked: int) -> int:
    """The longest context of which the pool holds as many as are asked for."""

    def holds(tokens: int) -> bool:
        need = sum(max(paging.blocks_of(page, tokens, served.demand) for page in group.pages) for group in pool.groups)
        return need * asked <= pool.blocks - pool.null

    return most_that(holds, longest(served.model) or MOST_TOKENS)


def _ranks(served: Served, pools: Sequence[Span], why: str) -> list[Rank]:
    s = served.setting
    return [
        rank(
            f"pp{i}", s.mesh.tp * s.mesh.dp, load, pool, why=why,
            reference=REFERENCE, deployed=s.device is not None,
        )
        for i, (load, pool) in enumerate(zip(served.loads, pools, strict=True))
    ]  # fmt: skip


ENGINE: Final = Engine(
    name="vllm",
    releases=Releases("vllm", newest=(0, 33), oldest=(0, 6), last={}),
    takes=(
        "gpu_memory_utilization", "kv_cache_memory", "max_num_batched_tokens", "max_num_seqs", "block_size",
        "prefix_caching", "enforce_eager", "speculative_tokens", "max_loras", "max_lora_rank", "mamba_ssm_cache_dtype",
        "decode_context_parallel_size", "num_gpu_blocks_override", "kv_offloading_size", "cpu_offload",
        "limit_mm_per_prompt", "max_pixels", "skip_mm_profiling", "language_model_only",
        "runner",
    ),
    reference=REFERENCE,
    deploy=deploy,
    listed=True,
)  # fmt: skip
