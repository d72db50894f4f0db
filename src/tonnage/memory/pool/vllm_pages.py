"""vLLM's pages: what a layer's page holds, and what a request asks of the pool.

Read in the releases 0.6.6 to 0.33.0 of https://github.com/vllm-project/vllm (vllm/v1/kv_cache_interface.py,
vllm/v1/core/kv_cache_planning.py, vllm/platforms/interface.py, vllm/model_executor/models/config.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import InputError, UnsupportedError
from tonnage.formats import FORMATS
from tonnage.memory.pool import kv_formats, paging
from tonnage.memory.pool.kept import Kept
from tonnage.memory.pool.pages import ENTRIES, Page
from tonnage.memory.pool.profiling import Batch
from tonnage.record import Record
from tonnage.releases import Since, since

IN_FLIGHT: Final[Since[int]] = (((0, 26), 2), ((0, 0), 1))
"""Steps whose tokens windows keep blocks for: asynchronous scheduling has one more than there are stages."""
ALIGNED: Final = (0, 16)
"""Release from which on a request keeps two states where prefixes are cached: the last one of a page, and its own."""
RETRIED: Final[Since[int]] = (((0, 32), 1), ((0, 0), 0))
"""Blocks of a Mamba 2 state for a checkpoint inside a prompt, where prefixes are cached."""
COMPRESSED: Final = ("entries", "index entries", "waiting")
"""Kinds of what DeepSeek-V4's layers keep."""
DCP: Final = (0, 10)
"""Release from which on ranks share the tokens of a sequence."""
IN_FP32: Final = ("qwen3_5", "nemotron_h")
"""Models whose recurrences are fp32 unless said otherwise, as their configs state, or
vllm/model_executor/models/config.py; Kimi's mixer keeps them so always, others have the weights' format."""


class Flags(Record):
    """What is asked of the engine and what it decides itself.

    Args:
        utilization: share of the device.
        batch: tokens and rows of one step.
        block: tokens of a page before states widen it.
        prefixes: whether they are cached.
        eager: no graphs.
        drafts: tokens drafted a step.
        form: of the cache.
        dtype: of activations.
        ssm: format of recurrences, where said.
        shards: ranks that share the tokens of a sequence.
        pooled: whether the model embeds, scores or classifies.
    """

    utilization: float
    batch: Batch
    block: int
    prefixes: bool
    eager: bool
    drafts: int
    form: kv_formats.CacheFormat
    dtype: str
    ssm: str | None
    shards: int = 1
    pooled: bool = False


def preferred(kinds: set[str], device: Device | None) -> int:
    """Tokens of a page that the attention backend prefers."""
    if "entries" in kinds:
        return 256
    if "latent" not in kinds:
        return 16
    major = (device.architecture if device is not None else "sm_90").removeprefix("sm_").rstrip("abf")[:-1]
    return 64 if major in ("9", "10") else 16


def pages(
    model: Model, layers: Sequence[Sequence[Kept]], flags: Flags, s: Any
) -> tuple[list[tuple[int, Page]], tuple[str, ...]]:
    """Pages of every layer, with the layer's index; and what the engine says when states widen them."""
    found = [(i, k) for i, layer in enumerate(layers) for k in layer]
    if flags.drafts:
        last = next(k for _, k in reversed(found) if k.kind not in ("state", "indexer", "cross"))
        found.append((len(layers) - 1, last))
    states = [state(k, flags, model) for _, k in found if k.kind == "state"]
    block, padded = flags.block, None
    notes: tuple[str, ...] = ()
    attention = [k for _, k in found if k.kind not in ("state", "indexer", "cross")]
    if states and attention:
        alignment = max(flags.block, 128 if attention[0].kind == "latent" else 16)
        block, padded, notes = paging.aligned(max(states), flags.form.token(attention[0]), flags.block, alignment)
    out = []
    for i, k in found:
        if k.kind == "state":
            page = Page("state", block, state=state(k, flags, model), padded=padded)
        elif k.kind in COMPRESSED:
            page = _packed_page(k, flags)
        else:
            form = (k.heads, k.key, k.value, flags.form.name)
            page = Page(k.kind, block, token=flags.form.token(k), window=k.window, form=form)
        out.append((i, page))
    return out, notes


def _packed_page(k: Kept, flags: Flags) -> Page:
    """A page of compressed keys, aligned as their kernels need it.

    vllm/models/deepseek_v4/attention.py, compressor.py, vllm/v1/attention/backends/mla/sparse_swa.py.
    """
    step = 576 if flags.form.packed_latent else 512
    token = flags.form.token(k)
    if k.kind == "waiting":
        block, rate = (4 if k.rate == 4 else 8), 1
    else:
        block, rate = (64 if k.window else flags.block), k.rate
    size = -(-(block // rate * token) // step) * step
    return Page("sliding" if k.window else ENTRIES, block, token, 0, k.window, (k.kind,), size, rate)


def state(k: Kept, flags: Flags, model: Model) -> int:
    """Bytes of a layer's states: a convolution keeps one token fewer than it sees, and one for each that is drafted."""
    width, total = FORMATS[flags.dtype].bytes, 0
    recurrent = kv_formats.state_width(None if flags.ssm in (None, "auto") else flags.ssm, flags.dtype)
    if flags.ssm in (None, "auto") and (k.mixer == "KimiDelta" or model.model_type.startswith(IN_FP32)):
        recurrent = 4
    for state in k.states:
        total += state.elements * ((state.taps - 1 + flags.drafts) * width if state.taps else recurrent)
    return total


def demand(model: Model, layers: Sequence[Sequence[Kept]], flags: Flags, s: Any) -> paging.Demand:
    """What a request asks of the pool: tokens in flight, states, encoder tokens, ranks that share it."""
    steps = since(s.version, IN_FLIGHT) + (s.mesh.pp - 1 if s.version >= (0, 26) else 0)
    align = flags.prefixes and s.version >= ALIGNED
    mamba2 = any(k.mixer == "Mamba2" for layer in layers for k in layer)
    states = (2 + (since(s.version, RETRIED) if mamba2 else 0) if align else 1) + flags.drafts
    return paging.Demand(
        in_flight=steps * flags.batch.tokens, states=states, encoder=model.positions or 0, shards=flags.shards
    )


def shards(model: Model, s: Any, kinds: set[str]) -> int:
    """Ranks that share the tokens of a sequence, out of those of tensor parallelism.

    vllm/config/parallel.py, vllm/config/model.py ``verify_with_parallel_config``, vllm/v1/kv_cache_interface.py.

    Raises:
        InputError: a degree that the engine refuses.
        UnsupportedError: the release has it not, or the model's layers do not keep every token.
    """
    n, tp = s.said.get("decode_context_parallel_size") or 1, s.mesh.tp
    if n == 1:
        return 1
    key = "decode_context_parallel_size"
    if s.version < DCP:
        raise UnsupportedError(f"{key}: vllm has it from 0.10 on", key=key, value=n)
    if kinds - {"full", "latent", "indexer"}:
        raise UnsupportedError("vllm shares no caches of windows, states or encoders over ranks", key=key, value=n)
    why = f"tp_size={tp} must be divisible by dcp_size={n}" if tp % n else ""
    if "full" in kinds and not why:
        blocks = _attention(model)
        heads = min(k for b in blocks if (k := getattr(b, "K", None)))
        queries = next(q for b in blocks if (q := getattr(b, "N", None))) // heads
        if tp <= heads:
            why = f"tp = {tp} has to be greater than the model's {heads} key/value heads"
        elif n > tp // heads:
            why = f"it exceeds the {tp // heads} copies that tp = {tp} makes of each key/value head"
        elif queries % n:
            why = f"the {queries} query heads of each key/value head are not divisible by it"
    if why:
        raise InputError(f"{key} = {n}: {why}", key=key, value=n)
    return n


def _attention(model: Model) -> list[object]:
    return [part for layer, _ in model.decoder.distinct() for sub in layer.sublayers
            for part in (sub.block, *getattr(sub.block, "parts", ()))]  # fmt: skip
