"""TensorRT-LLM (PyTorch backend): a fraction of what a dry run leaves is one pool of pages of 32 tokens.

Read in tensorrt_llm/_torch/pyexecutor/_util.py and llmapi/llm_args.py of https://github.com/NVIDIA/TensorRT-LLM, 1.0 to
1.2: ``_cal_max_memory``, ``KvCacheConfig``. What others hold on the device is taken for the engine's own.
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
from tonnage.memory.pool.pooled import MOST_TOKENS, Load, rank
from tonnage.memory.pool.profiling import forward
from tonnage.memory.pool.ranked import Span, absorbed, rank_weights, rotary_tables
from tonnage.memory.pool.refusals import capability, refuse_quantization
from tonnage.memory.pool.reserves import TENSORRT_OUTSIDE, TENSORRT_PEERS
from tonnage.memory.pool.served import longest, narrowed
from tonnage.memory.search import most_that
from tonnage.placement.serving import evenly, partition
from tonnage.placement.sharding import cuts
from tonnage.record import Record
from tonnage.releases import Releases
from tonnage.units import GiB

REFERENCE: Final = (
    "https://github.com/NVIDIA/TensorRT-LLM/blob/v1.2.1/tensorrt_llm/_torch/pyexecutor/_util.py _cal_max_memory"
)
FRACTION, TOKENS, BLOCK = 0.9, 8192, 32
LEAST, BLACKWELL = 80, 100
"""Compute capability, times ten, of the oldest GPU and of the first with a cache in NVFP4: the support matrix."""

NOT_MODELLED: Final = (
    "engines built ahead of time; draft models; adapters; caches in host memory",
    "layouts that kernels make of packed weights",
)


class Flags(Record):
    """What is asked and what the engine decides itself."""

    fraction: float
    tokens: int
    block: int
    form: kv_formats.CacheFormat


def deploy(model: Model, s: Setting) -> Deployment:
    """Plan the pool of every rank.

    Raises:
        UnsupportedError: understood, and not modelled yet.
        InputError: contradictory.
    """
    s = narrowed(s, "bf16")
    layers = kept(model, cuts(s.mesh).dense)
    _check(model, s, layers)
    said = s.said
    form = kv_formats.chosen(
        said.get("kv_dtype"), kv_formats.TENSORRT, s.dtype, s.version, kv_formats.declared(model.quantization),
        "tensorrt-llm",
    )  # fmt: skip
    kv_formats.refuse(form, layers, "tensorrt-llm")
    if form.name == "nvfp4" and (capability(s.device) or BLACKWELL) < BLACKWELL:
        raise UnsupportedError("kv_dtype = nvfp4: tensorrt-llm keeps it on Blackwell alone", key="kv_dtype")
    flags = Flags(
        said.get("free_gpu_memory_fraction") or FRACTION,
        said.get("max_num_tokens") or TOKENS,
        said.get("tokens_per_block") or BLOCK,
        form,
    )
    stages = partition(len(layers), s.mesh.pp)
    cells = [sum(form.token(k) for i in stage for k in layers[i]) for stage in stages]
    loads = [_load(model, s, flags, i, stages[i] if s.mesh.pp > 1 else None) for i in range(s.mesh.pp)]
    asked = -(-s.concurrency // s.mesh.dp)
    capacity: dict[str, Any] = {
        "kv_bytes": max(cells) * s.context * asked, "kv_bytes_per_token": max(cells), "tokens": None, "blocks": None,
        "max_context": None, "max_concurrency": None, "log": [],
    }  # fmt: skip
    settled = {
        "dtype": s.dtype, "kv_dtype": form.name,
        "free_gpu_memory_fraction": flags.fraction, "max_num_tokens": flags.tokens,
        "tokens_per_block": flags.block,
    }  # fmt: skip
    windows = any(k.window is not None for layer in layers for k in layer)
    caveats = ("tensorrt-llm keeps every token of windowed layers unless it is told their windows",) if windows else ()
    if s.device is None:
        sizes = [Span(n, n, n) for n in (c * s.context * asked for c in cells)]
        return Deployment(
            ranks=_ranks(s, loads, sizes, "what is asked for"), settled=settled, capacity=capacity, caveats=caveats,
            not_modelled=NOT_MODELLED,
        )  # fmt: skip
    return _answer(model, s, flags, cells, loads, capacity, settled, caveats)


def _check(model: Model, s: Setting, layers: Sequence[Sequence[Kept]]) -> None:
    kinds = {k.kind for layer in layers for k in layer}
    if not kinds:
        raise UnsupportedError(
            f"tensorrt-llm is modelled for models that write, and {model.model_type} keeps no cache", key="engine",
            value=model.model_type, hint="--engine vllm",
        )  # fmt: skip
    odd = sorted(kinds & {"state", "indexer", "cross"})
    if odd or s.mesh.cp > 1:
        raise UnsupportedError(
            f"tensorrt-llm with {' and '.join(odd) or 'context parallelism'} is not modelled yet",
            key="engine" if odd else "cp", value=model.model_type, hint="--engine vllm or sglang",
        )  # fmt: skip
    reach = longest(model)
    if reach is not None and s.context > reach:
        raise InputError(
            f"context = {s.context:,} is beyond the {reach:,} positions that the model's config states",
            key="context", value=s.context, hint=f"--context {reach}",
        )  # fmt: skip
    evenly((t for _, group in model.groups() for t in group), s.mesh)
    refuse_quantization("tensorrt-llm", s.recipe, s.device, s.version)
    has, block = capability(s.device), s.said.get("tokens_per_block") or BLOCK
    if has is not None and has < LEAST:
        raise UnsupportedError(
            f"tensorrt-llm needs a compute capability of {LEAST / 10:g}, and this GPU has {has / 10:g}", key="gpu"
        )
    if block & (block - 1):
        raise InputError(
            f"tokens_per_block = {block} must be a power of 2", key="tokens_per_block", value=block, hint="32 or 64"
        )


def _load(model: Model, s: Setting, flags: Flags, stage: int, layers: range | None) -> Load:
    form, mesh = FORMATS[s.dtype], s.mesh
    extras = (
        rotary_tables(model, 4),
        absorbed(model, mesh, layers) if s.recipe is not None else None,
    )
    shares = rank_weights(model, form, s.recipe, mesh, stage)
    found = tuple(e for e in extras if e is not None)
    if s.device is None:
        return Load(shares, found)
    body, residual = forward(model, mesh, flags.tokens, form.bytes), flags.tokens * model.width * form.bytes
    span, basis = TENSORRT_OUTSIDE
    outside = [("other:non-torch", span, basis)]
    if mesh.world > 1:
        outside.append(("communication", *TENSORRT_PEERS))
    return Load(
        shares=shares,
        extras=found,
        peak=Span(body + 2 * residual, body + 3 * residual, 2 * body + 4 * residual),
        peak_why=f"dry run over {flags.tokens:,} tokens, widest layer",
        instant="dry run",
        outside=tuple(outside),
    )


def budget(s: Setting, flags: Flags, load: Load) -> Span:
    """Bytes that a rank's dry run leaves to its pool."""
    assert s.device is not None
    c, before = s.device.capacity, load.before
    low, likely, high = c.low - before.high, c.bytes - before.likely, c.high - before.low
    return Span(*(int((n - s.in_use) * flags.fraction) for n in (low, likely, high)))


def _blocks(flags: Flags, rooms: Sequence[Span], cells: Sequence[int], bound: str) -> int:
    """Blocks on every rank: those of the smallest."""
    found = [max(getattr(r, bound), 0) // (c * flags.block) for r, c in zip(rooms, cells, strict=True) if c]
    return min(found, default=0)


def _answer(
    model: Model, s: Setting, flags: Flags, cells: Sequence[int], loads: Sequence[Load], capacity: dict[str, Any],
    settled: dict[str, Any], caveats: tuple[str, ...],
) -> Deployment:  # fmt: skip
    rooms = [budget(s, flags, load) for load in loads]
    low, likely, high = (_blocks(flags, rooms, cells, bound) for bound in ("low", "likely", "high"))
    each, asked, dp = -(-s.context // flags.block), -(-s.concurrency // s.mesh.dp), s.mesh.dp
    sizes = [Span(*(n * c * flags.block for n in (low, likely, high))) for c in cells]
    if high < each:
        caveats += (
            "tensorrt-llm shortens its longest sequence to what its pool holds, which is less than is asked for",
        )
    elif likely // each * dp < s.concurrency:
        caveats += (f"from {likely // each * dp + 1:,} sequences of {s.context:,} tokens on, requests queue",)
    tokens = likely * flags.block
    capacity |= {
        "tokens": tokens,
        "blocks": likely,
        "max_concurrency": likely // each * dp,
        "max_context": most_that(lambda n: -(-n // flags.block) * asked <= likely, longest(model) or MOST_TOKENS),
        "log": [
            f"Estimated max memory in KV cache : {max(rooms[0].likely, 0) / GiB:.2f} GiB",
            f"[MemUsageChange] Allocated {sizes[0].likely / GiB:.2f} GiB for max tokens in paged KV cache ({tokens}).",
        ],
    }
    spare = min(r.likely - asked * each * flags.block * c for r, c in zip(rooms, cells, strict=True))
    why = f"{likely:,} blocks of {flags.block} tokens"
    return Deployment(
        ranks=_ranks(s, loads, sizes, why),
        settled=settled,
        capacity=capacity,
        held=(low / each * dp, likely / each * dp, high / each * dp),
        spare=spare,
        caveats=caveats,
        not_modelled=NOT_MODELLED,
    )


def _ranks(s: Setting, loads: Sequence[Load], sizes: Sequence[Span], why: str) -> tuple[Any, ...]:
    return tuple(
        rank(f"pp{i}", s.mesh.tp * s.mesh.dp, load, size, why=why, reference=REFERENCE, deployed=False)
        for i, (load, size) in enumerate(zip(loads, sizes, strict=True))
    )


ENGINE: Final = Engine(
    name="tensorrt-llm",
    releases=Releases("tensorrt-llm", newest=(1, 2), oldest=(1, 0), last={}),
    takes=("free_gpu_memory_fraction", "max_num_tokens", "tokens_per_block"),
    reference=REFERENCE,
    deploy=deploy,
    listed=True,
)
