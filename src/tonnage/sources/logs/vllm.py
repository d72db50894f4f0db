"""What vLLM prints about memory, from 0.6 to 0.33.

Wordings: vllm-project/vllm, vllm/worker/worker.py and vllm/v1/worker/gpu_worker.py (profile run),
vllm/v1/worker/gpu_model_runner.py and vllm/v1/worker/gpu/model_runner.py (weights, graphs),
vllm/v1/core/kv_cache_utils.py (pool), vllm/config/vllm.py ``__str__`` (settings), of each release.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from tonnage.sources.logs import Log
from tonnage.sources.logs._sizes import count, figure, pattern, plain, typed, values
from tonnage.units import GiB
from tonnage.workload.told import Figure, Told

WEIGHTS: Final = ("weights", "rounding")
OUTSIDE: Final = ("other:non-torch",)
ACTIVE: Final = ("activations", "workspace")
CONSUMED: Final = (*WEIGHTS, *OUTSIDE, "other:sampler state")

RELEASE: Final = re.compile(
    r"(?:API server version|LLM engine \(v|LLM Engine \(v|vLLM (?:engine )?version:?)\s*v?(\d+\.\d+(?:\.\d+)?)", re.I
)
LOADED: Final = pattern(r"(?:Model loading took|Loading model weights took|model weights took)\s+<size> ?(GiB|GB)")
PROFILED: Final = pattern(
    r"model weights take <size>GiB; ?non_torch_memory takes <size>GiB; ?PyTorch activation peak memory takes "
    r"<size>GiB; ?the rest of the memory reserved for KV Cache is <signed>GiB"
)
SHARE: Final = pattern(r"total_gpu_memory \(<size>GiB\) x gpu_memory_utilization \(<size>\)")
ROOM: Final = pattern(r"Available KV cache memory: <signed> (GiB)")
SIZE: Final = pattern(r"KV cache size: <count> tokens")
TIMES: Final = pattern(r"Maximum concurrency for <count> tokens per request: <size>x")
BLOCKS: Final = pattern(r"# (?:cuda|GPU) blocks: <whole>", re.I)
FREE: Final = pattern(r"Free memory on device (?:\S+ )?\(<size>/<size> GiB\) on startup")
WANTED: Final = pattern(r"utilization (?:is )?\(<size>, <size> GiB\)")
USED: Final = pattern(
    r"Actual usage is <size> GiB for weight, <size> GiB for peak activation, <size> GiB for non-torch memory, "
    r"and <size> GiB for CUDAGraph"
)
CONSUMING: Final = pattern(
    r"Actual usage is <size> GiB for consumed memory \(weights \+ non-torch\), <size> GiB for peak activation, and "
    r"<size> GiB for CUDAGraph"
)
CAPTURED: Final = pattern(r"Graph capturing finished in \d+ secs, took <size> (GiB)")
ESTIMATED: Final = pattern(r"Estimated CUDA graph memory: <size> (GiB) total")
GRAPHS: Final = pattern(r"CUDA graph pool memory: <size> GiB \(actual\), <size> GiB \(estimated\)")
CHUNK: Final = pattern(r"Chunked prefill is enabled with max_num_batched_tokens=<whole>")
BLOCK: Final = pattern(r"Setting attention block size to <whole> tokens")
STOPPED: Final = re.compile(
    r"(?:(?:ValueError|RuntimeError|OutOfMemoryError)[^:]*: ?|ERROR .*?\] ?)"
    r"((?:To serve at least one|No available memory|Free memory on device|The model's max seq len|CUDA out of memory|"
    r"CUDA error: out of memory).{0,200})"
)
SETTINGS: Final = {
    "model": "model", "context": "max_seq_len", "tp": "tensor_parallel_size", "pp": "pipeline_parallel_size",
    "dp": "data_parallel_size", "kv_dtype": "kv_cache_dtype", "enforce_eager": "enforce_eager",
    "prefix_caching": "enable_prefix_caching",
}  # fmt: skip
ARGUMENTS: Final = {
    "gpu_memory_utilization": "gpu_memory_utilization", "max_num_batched_tokens": "max_num_batched_tokens",
    "max_num_seqs": "max_num_seqs", "context": "max_model_len", "kv_dtype": "kv_cache_dtype", "model": "model",
    "tp": "tensor_parallel_size", "pp": "pipeline_parallel_size", "max_loras": "max_loras",
}  # fmt: skip
COUNTS: Final = ("context", "tp", "pp", "dp", "max_num_batched_tokens", "max_num_seqs", "max_loras")
ENGINE: Final = re.compile(r"LLM engine \(v[^)]*\) with config: ", re.I)


def read(lines: Iterable[str]) -> Told | None:
    """What the lines tell; every rank prints its own, and the pool is that of the rank that has least."""
    said: dict[str, Any] = {}
    figures: dict[str, Figure] = {}
    counts: dict[str, float] = {}
    about: dict[str, Any] = {}
    notes: dict[str, None] = {}
    for raw in lines:
        line = plain(raw)
        _settings(line, said, about)
        for found in _figures(line):
            known = figures.get(found.name)
            if known is None or (found.name == "kv_cache" and found.bytes < known.bytes):
                figures[found.name] = found
        _counts(line, counts, said)
        free = FREE.search(line)
        if free is not None:
            about.setdefault("free", round(float(free.group(1)) * GiB))
            about.setdefault("total", round(float(free.group(2)) * GiB))
        stopped = STOPPED.search(line)
        if stopped is not None:
            notes[f"it stopped: {stopped.group(1).strip()}"] = None
    if not figures and not counts and not notes and not said:
        return None
    return Told(
        engine="vllm", release=about.get("release"), model=said.pop("model", None), said=said,
        figures=tuple(figures.values()), counts=counts, free=about.get("free"), total=about.get("total"),
        notes=tuple(notes),
    )  # fmt: skip


def _settings(line: str, said: dict[str, Any], about: dict[str, Any]) -> None:
    """Settings that a line states: the engine's own list, else the arguments that are no defaults."""
    release = RELEASE.search(line)
    if release is not None:
        about.setdefault("release", release.group(1))
    if ENGINE.search(line):
        said.update(typed(values(line, SETTINGS), COUNTS, (), ("enforce_eager", "prefix_caching")))
    elif "non-default args" in line:
        for key, value in typed(values(line, ARGUMENTS), COUNTS, ("gpu_memory_utilization",), ()).items():
            said.setdefault(key, value)
    chunk = CHUNK.search(line)
    if chunk is not None:
        said["max_num_batched_tokens"] = int(chunk.group(1))
    share = SHARE.search(line)
    if share is not None:
        about.setdefault("total", round(float(share.group(1)) * GiB))
        said["gpu_memory_utilization"] = float(share.group(2))
    wanted = WANTED.search(line)
    if wanted is not None and 0 < float(wanted.group(1)) <= 1:
        said["gpu_memory_utilization"] = float(wanted.group(1))


def _figures(line: str) -> list[Figure]:
    """Sizes of one line."""
    out = []
    for name, says, parts in (
        ("weights", LOADED, WEIGHTS), ("kv_cache", ROOM, ()), ("cuda_graphs", ESTIMATED, ("cuda_graphs",)),
        ("graphs as captured", CAPTURED, ("cuda_graphs",)),
    ):  # fmt: skip
        found = says.search(line)
        if found is not None:
            out.append(figure(name, found.group(1), found.group(2), line, parts=parts))
    for says, names in (
        (PROFILED, (("weights", WEIGHTS), ("other:non-torch", OUTSIDE), ("activations", ACTIVE), ("kv_cache", ()))),
        (USED, (("weights", WEIGHTS), ("activations", ACTIVE), ("other:non-torch", OUTSIDE),
                ("graphs as captured", ("cuda_graphs",)))),
        (GRAPHS, (("graphs as captured", ("cuda_graphs",)), ("cuda_graphs", ("cuda_graphs",)))),
        (CONSUMING, (("consumed", CONSUMED), ("activations", (*ACTIVE, "cuda_graphs")),
                     ("graphs as captured", ("cuda_graphs",)))),
    ):  # fmt: skip
        found = says.search(line)
        if found is not None:
            out += [
                figure(name, text, "GiB", line, parts=parts)
                for (name, parts), text in zip(names, found.groups(), strict=True)
            ]
    return out


def _counts(line: str, counts: dict[str, float], said: dict[str, Any]) -> None:
    """Tokens, blocks and requests of the pool."""
    for name, says in (("tokens", SIZE), ("blocks", BLOCKS), ("block_size", BLOCK)):
        found = says.search(line)
        if found is not None:
            counts.setdefault(name, count(found.group(1)))
    times = TIMES.search(line)
    if times is not None:
        counts.setdefault("concurrency", float(times.group(2)))
        said.setdefault("context", count(times.group(1)))


LOG: Final = Log("vllm", read, "vllm/v1/worker/gpu_worker.py")
