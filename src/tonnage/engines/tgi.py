"""text-generation-inference: nine tenths of the device, less weights and a warm-up prompt, is one pool of tokens.

Read in server/text_generation_server/models/flash_causal_lm.py ``warmup``, backends/v3/src/client/grpc_client.rs
``warmup`` and launcher/src/main.rs, 3.0.0 to 3.3.7 of https://github.com/huggingface/text-generation-inference. What
the warm-up takes stays in the allocator's cache while the pool is measured; CUDA graphs come after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.engines import Deployment, Engine, Setting
from tonnage.errors import InputError, UnsupportedError
from tonnage.formats import FORMATS
from tonnage.memory.overhead import cublas_workspace
from tonnage.memory.passes import blocks
from tonnage.memory.pool import kv_formats
from tonnage.memory.pool.kept import Kept, kept
from tonnage.memory.pool.pooled import MOST_TOKENS, Load, rank
from tonnage.memory.pool.processors import Item, tiny
from tonnage.memory.pool.profiling import forward
from tonnage.memory.pool.ranked import Extra, Span, rank_weights
from tonnage.memory.pool.refusals import refuse_quantization
from tonnage.memory.pool.reserves import TENSORRT_PEERS, TGI_GRAPHS, TGI_OUTSIDE
from tonnage.memory.pool.served import narrowed
from tonnage.memory.pool.towers import tower
from tonnage.memory.search import most_that
from tonnage.placement.serving import evenly
from tonnage.placement.sharding import cuts
from tonnage.record import Record
from tonnage.releases import Releases, Since, since
from tonnage.timeline import Level
from tonnage.units import MiB

REFERENCE: Final = (
    "https://github.com/huggingface/text-generation-inference/blob/v3.3.7/server/text_generation_server/models/"
    "flash_causal_lm.py warmup"
)
WIGGLE: Final[Since[float]] = (((3, 3), 0.9), ((3, 1), 0.93), ((0, 0), 0.95))
"""Part of the device's share that the pool may fill. models/globals.py ``TGI_WIGGLE_ROOM``"""
WORKSPACE: Final = 128 * MiB
"""Of FlashInfer's kernels. layers/attention/flashinfer.py ``get_workspace``"""

RATES: Final[Mapping[str, int]] = {
    "t4": 65, "l4": 121, "l40": 181, "l40s": 363, "a10g": 125, "a40": 149, "a100-40gb": 312, "a100-80gb": 312,
    "a100-pcie-80gb": 312, "h100-sxm-80gb": 900, "h100-nvl": 900, "h200": 989,
}  # fmt: skip
"""What the launcher takes the devices that it knows by name to do in 16 bit. [TFLOP/s]"""
KNOWN_LATER: Final = ("h200",)
PROMPTS: Final[Mapping[str, int]] = {"qwen2_vl": 10_000, "qwen2_5_vl": 10_000, "gemma3": 8000}
PROMPT: Final = 4096
FLASHINFER: Final = (64, 128, 256)
FORCED: Final = ("falcon", "deepseek_v2")

NOT_MODELLED: Final = (
    "what encoders take of larger pictures than the warm-up's, of 20 x 20 pixels; adapters; draft models",
    "layouts that kernels make of packed weights",
)


class Flags(Record):
    """What is asked and what the engine decides itself."""

    fraction: float
    prompt: int
    attention: str
    block: int
    form: kv_formats.CacheFormat


def deploy(model: Model, s: Setting) -> Deployment:
    """Plan the pool of every rank.

    Raises:
        UnsupportedError: understood, and not modelled yet.
        InputError: what the engine would refuse to start with.
    """
    s = narrowed(s, "fp16")
    if s.dtype == "fp32":
        raise InputError("tgi computes in float16 or bfloat16", key="dtype", value=s.dtype, hint="--dtype fp16")
    layers = kept(model, cuts(s.mesh).dense)
    _check(model, s, layers)
    said = s.said
    form = kv_formats.chosen(said.get("kv_dtype"), kv_formats.TGI, s.dtype, s.version, None, "tgi")
    attention, block = _attention(model, layers, s.device)
    if form.bits == 8 and attention == "flashdecoding":
        raise UnsupportedError(
            "FP8 KV cache is currently only supported for flashinfer on CUDA and paged attention", key="kv_dtype",
            value=form.name, hint="--kv-dtype auto",
        )  # fmt: skip
    flags = Flags(
        said.get("cuda_memory_fraction") or 1.0,
        said.get("max_batch_prefill_tokens") or prompt(model, s),
        attention,
        block,
        form,
    )
    cell = sum(form.token(k) for layer in layers for k in layer)
    capacity: dict[str, Any] = {
        "kv_bytes": cell * s.context * s.concurrency, "kv_bytes_per_token": cell, "tokens": None, "blocks": None,
        "max_context": None, "max_concurrency": None, "log": [],
    }  # fmt: skip
    settled = {
        "dtype": s.dtype, "kv_dtype": form.name,
        "cuda_memory_fraction": flags.fraction, "max_batch_prefill_tokens": flags.prompt,
    }  # fmt: skip
    windows = any(k.window is not None for layer in layers for k in layer)
    caveats = ("tgi keeps every token of windowed layers",) if windows else ()
    load = _load(model, s, flags)
    if s.device is None:
        size = Span(*(cell * s.context * s.concurrency,) * 3)
        return Deployment(
            ranks=_rank(s, load, size, "what is asked for"), settled=settled, capacity=capacity, caveats=caveats,
            not_modelled=NOT_MODELLED,
        )  # fmt: skip
    return _answer(model, s, flags, cell, load, capacity, settled, caveats)


def _check(model: Model, s: Setting, layers: Sequence[Sequence[Kept]]) -> None:
    if not any(layers):
        raise UnsupportedError(
            f"tgi serves models that write, and {model.model_type} keeps no cache", key="engine",
            value=model.model_type, hint="--engine vllm",
        )  # fmt: skip
    odd = sorted({k.kind for layer in layers for k in layer} & {"state", "indexer", "cross", "latent"})
    if odd:
        raise UnsupportedError(
            f"tgi with {' and '.join(odd)} is not modelled yet", key="engine", value=model.model_type,
            hint="--engine vllm or sglang",
        )  # fmt: skip
    for key in ("pp", "cp", "ep", "dp"):
        if getattr(s.mesh, key) > 1:
            raise InputError(f"{key} = {getattr(s.mesh, key)}: tgi only knows shards, tp", key=key)
    evenly((t for _, group in model.groups() for t in group), s.mesh)
    refuse_quantization("tgi", s.recipe, s.device, s.version)
    for heads in {getattr(b, "K", None) or 1 for b in _blocks(model)}:
        if heads > 1 and heads % s.mesh.tp:
            raise InputError(
                f"num_key_value_heads must be divisible by num_shards (got {heads} and {s.mesh.tp})", key="tp",
                value=s.mesh.tp,
            )  # fmt: skip
    if model.positions is not None and s.context > model.positions:
        raise InputError(
            f"context = {s.context:,} is beyond the {model.positions:,} positions to which tgi limits a request",
            key="context", value=s.context, hint=f"--context {model.positions}",
        )  # fmt: skip


def _blocks(model: Model) -> list[Any]:
    return [sub.block for layer, _ in model.decoder.distinct() for sub in layer.sublayers]


def _attention(model: Model, layers: Sequence[Sequence[Kept]], device: Device | None) -> tuple[str, int]:
    """The kernels and tokens of a block. launcher/src/main.rs ``resolve_attention``"""
    width = next((k.key for layer in layers for k in layer), 0)
    if width in FLASHINFER and model.model_type not in FORCED:
        return "flashinfer", 1
    old = device is not None and device.architecture.startswith(("sm_6", "sm_7"))
    return ("paged", 16) if old else ("flashdecoding", 256)


def prompt(model: Model, s: Setting) -> int:
    """Tokens of the largest prompt step: what the launcher takes for the best use of a device that it knows by name.

    launcher/src/main.rs ``compute_optimal``, ``vram_maximum``, slips of the release and all.
    """
    found = _optimal(model, s)
    tokens = PROMPTS.get(model.whole_type or model.model_type, PROMPT) if found is None else found
    if model.positions is not None:
        tokens = min(tokens, model.positions)
    room = _room(model, s)
    return tokens if room is None else max(min(tokens, room), 1)


def _dims(model: Model) -> tuple[int, int, int, int, int, int] | None:
    """Query heads, key/value heads, width of a head, inner width, experts that are used, and all of them."""
    first: list[Any] = [sub.block for sub in model.decoder.layers[-1].sublayers]
    attention = next((b for b in first if getattr(b, "N", None) and getattr(b, "H", None)), None)
    inner = next((b for b in first if getattr(b, "F", None)), None)
    if attention is None or inner is None:
        return None
    heads, shared = int(attention.N), int(getattr(attention, "K", None) or attention.N)
    used = int(getattr(inner, "used", None) or 1)
    return heads, shared, int(attention.H), int(inner.F), used, int(getattr(inner, "E", None) or 1)


def _optimal(model: Model, s: Setting) -> int | None:
    dims = _dims(model)
    name = s.device.name if s.device is not None else ""
    if dims is None or len(model.stacks) > 1 or any(t.role == "vision" for _, group in model.groups() for t in group):
        return None
    if name not in RATES or (name in KNOWN_LATER and s.version < (3, 1)):
        return None
    N, K, H, F, used, _ = dims
    flop = len(model.decoder.layers) * 2 * model.width * ((3 * N + 2 * K) * H + 3 * F * used)
    best = RATES[name] * 10**12 * s.mesh.tp // flop
    return best if best > 100 else None


def _room(model: Model, s: Setting) -> int | None:
    dims = _dims(model)
    if dims is None or s.device is None or model.quantized is not None:
        return None
    N, K, H, F, _, E = dims
    total = (s.device.driver_bytes or s.device.capacity.bytes) // MiB * MiB * s.mesh.tp
    available = int(total * (s.said.get("cuda_memory_fraction") or 1.0) * 0.95)
    D, count = model.width, len(model.decoder.layers)
    weights = 2 * (count * (3 * F * E * D + (N + 2 * K) * H + N * H * D) + 2 * D * model.vocabulary)
    if weights > available:
        return None
    return (available - weights) // (K * 2 * H * 2 * count + (F + F // 2) * E * 2 * 3)


def _load(model: Model, s: Setting, flags: Flags) -> Load:
    form, mesh = FORMATS[s.dtype], s.mesh
    shares = rank_weights(model, form, s.recipe, mesh, 0)
    extras = []
    if model.head is not None and model.head.alias_of is not None:
        rows = model.vocabulary // mesh.tp if model.vocabulary % mesh.tp == 0 else model.vocabulary
        n = form.nbytes(rows * model.width)
        extras.append(Extra("head, read once more than the embedding", Level(n, blocks(n)), f"{rows:,} rows"))
    if s.device is None:
        return Load(shares, tuple(extras))
    body, residual = forward(model, mesh, flags.prompt, form.bytes), flags.prompt * model.width * form.bytes
    seen, picture = tower(model, mesh), Span(0, 0, 0)
    if seen is not None:
        patches = tiny(model.whole_type or model.model_type, seen.positions)
        picture = seen.live(Item("image", 0, patches, 0), 1, form.bytes)
    span, basis = TGI_OUTSIDE
    outside = [("other:non-torch", span, basis)]
    if mesh.world > 1:
        outside.append(("communication", *TENSORRT_PEERS))
    return Load(
        shares=shares,
        extras=tuple(extras),
        # The activation of the gate stands beside gate, up and product, as nothing is compiled or fused.
        peak=Span(
            max(body + 2 * residual, picture.low),
            max(body * 4 // 3 + 3 * residual, picture.likely),
            max(body * 5 // 3 + 6 * residual, picture.high),
        ),
        peak_why=f"warm-up prompt of {flags.prompt:,} tokens, widest layer"
        + (", or its picture of 20 x 20 pixels" if seen is not None else ""),
        instant="warm-up",
        resident=(("kernels", WORKSPACE, "FlashInfer's workspace"),) if flags.attention == "flashinfer" else (),
        workspace=cublas_workspace(s.device.architecture),
        outside=tuple(outside),
        after=(("cuda_graphs", *TGI_GRAPHS),),
    )


def budget(s: Setting, flags: Flags, load: Load) -> Span:
    """Bytes that a rank's warm-up leaves to its pool."""
    assert s.device is not None
    c, before, share = s.device.capacity, load.before, flags.fraction * since(s.version, WIGGLE)
    low, likely, high = (int(n * share) - s.in_use for n in (c.low, c.bytes, c.high))
    return Span(low - before.high, likely - before.likely, high - before.low)


def _answer(
    model: Model, s: Setting, flags: Flags, cell: int, load: Load, capacity: dict[str, Any], settled: dict[str, Any],
    caveats: tuple[str, ...],
) -> Deployment:  # fmt: skip
    room = budget(s, flags, load)
    page = cell * flags.block
    # The warm-up's own blocks are there before anything is measured.
    least = -(-flags.prompt // flags.block)
    low, likely, high = (max(n, 0) // page for n in (room.low, room.likely, room.high))
    low, likely, high = (n if n >= least else 0 for n in (low, likely, high))
    each, asked = -(-s.context // flags.block), s.concurrency
    if not high:
        caveats += (
            f"Not enough memory to handle {flags.prompt} prefill tokens. You need to decrease "
            "`--max-batch-prefill-tokens`",
        )
    elif likely // each < asked:
        caveats += (f"from {likely // each + 1:,} sequences of {s.context:,} tokens on, requests queue",)
    tokens = likely * flags.block
    log = [f"Using Attention = {flags.attention}"]
    if s.said.get("max_batch_prefill_tokens") is None:
        log.append(f"Default `max_batch_prefill_tokens` to {flags.prompt}")
    log += [f"KV-cache blocks: {likely}, size: {flags.block}", f"Setting max batch total tokens to {tokens}"]
    capacity |= {
        "tokens": tokens,
        "blocks": likely,
        "max_concurrency": likely // each,
        "max_context": most_that(lambda n: -(-n // flags.block) * asked <= likely, model.positions or MOST_TOKENS),
        "log": log if likely else log[:-2],
    }
    return Deployment(
        ranks=_rank(
            s, load, Span(low * page, likely * page, high * page), f"{likely:,} blocks of {flags.block} tokens"
        ),
        settled=settled,
        capacity=capacity,
        held=(low / each, likely / each, high / each),
        spare=room.likely - asked * each * page,
        caveats=caveats,
        not_modelled=NOT_MODELLED,
    )


def _rank(s: Setting, load: Load, size: Span, why: str) -> tuple[Any, ...]:
    return (rank("all", s.mesh.tp, load, size, why=why, reference=REFERENCE, deployed=False),)


ENGINE: Final = Engine(
    name="tgi",
    releases=Releases("tgi", newest=(3, 3), oldest=(3, 0), last={}),
    takes=("cuda_memory_fraction", "max_batch_prefill_tokens"),
    reference=REFERENCE,
    deploy=deploy,
    listed=True,
)
