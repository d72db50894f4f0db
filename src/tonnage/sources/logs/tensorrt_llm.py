"""What TensorRT-LLM prints about memory, 1.0 to 1.2: a dry run with a small pool, then the pool.

Wordings: NVIDIA/TensorRT-LLM, tensorrt_llm/_torch/pyexecutor/_util.py ``KvCacheCreator`` (profile run), and
cpp/tensorrt_llm/batch_manager/kvCacheManager.cpp (pools), of each release.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from tonnage.sources.logs import Log
from tonnage.sources.logs._sizes import figure, pattern, plain
from tonnage.units import GiB
from tonnage.workload.told import Figure, Told

RELEASE: Final = re.compile(r"(?:TensorRT[- ]LLM version: ?|tensorrt[-_]llm[ =]+v?)(\d+\.\d+(?:\.\d+)?)", re.I)
OURS: Final = re.compile(r"TensorRT-LLM|TRT-LLM|MemUsageChange")
PROFILING: Final = r"in memory usage profiling: <size> GiB"
LOADED: Final = pattern(r"after loading (?:model )?weights \(inside torch\) " + PROFILING)
RUN: Final = pattern(r"dynamically allocated during inference \(inside torch\) " + PROFILING)
OUTSIDE: Final = pattern(r"used outside torch (?:\(e\.g\., NCCL and CUDA graphs\) )?" + PROFILING)
PEAK: Final = pattern(
    r"available KV cache memory when calculating max tokens: <signed> GiB(?:, fraction is set (\d\.\d{1,20}), "
    r"kv size (?:per token )?is <size>\. device total memory <size> GiB)?"
)
POOL: Final = pattern(r"\[MemUsageChange\] Allocated <size> GiB for max tokens in paged KV cache \(<whole>\)")
BLOCKS: Final = pattern(r"tokens per block=<whole>, primary blocks=<whole>")
PAGE: Final = pattern(r"Number of tokens per block: <whole>")
LIMITS: Final = pattern(r"max_seq_len=<whole>, max_num_requests=<whole>, max_num_tokens=<whole>")
STOPPED: Final = re.compile(
    r"(CUDA out of memory.{0,160}|Executor worker died.{0,160}|insufficient memory.{0,160})", re.I
)


def read(lines: Iterable[str]) -> Told | None:
    """What the lines tell; the pool is the last one, after that of the dry run."""
    said: dict[str, Any] = {}
    figures: dict[str, Figure] = {}
    counts: dict[str, float] = {}
    notes: dict[str, None] = {}
    release, total, ours = None, None, False
    for raw in lines:
        line = plain(raw)
        ours = ours or OURS.search(line) is not None
        version = RELEASE.search(line)
        release = version.group(1) if version is not None and release is None else release
        peak = PEAK.search(line)
        if peak is not None and peak.group(2):
            said["free_gpu_memory_fraction"] = round(float(peak.group(2)), 6)
            total = round(float(peak.group(4)) * GiB)
        for found in _figures(line):
            figures[found.name] = found
        _counts(line, counts, said)
        stopped = STOPPED.search(line)
        if stopped is not None and ours:
            notes[f"it stopped: {stopped.group(1).strip()}"] = None
    if not ours or not (figures or counts):
        return None
    return Told(
        engine="tensorrt-llm", release=release, said=said, figures=tuple(figures.values()), counts=counts,
        total=total, notes=tuple(notes),
    )  # fmt: skip


def _figures(line: str) -> list[Figure]:
    """Sizes of one line."""
    out = []
    for name, says, parts in (
        ("weights", LOADED, ("weights", "rounding")),
        ("activations", RUN, ("activations",)),
        ("other:non-torch", OUTSIDE, ("other:non-torch", "communication")),
        ("kv_cache", POOL, ("kv_cache",)),
    ):
        found = says.search(line)
        if found is not None:
            out.append(figure(name, found.group(1), "GiB", line, parts=parts))
    return out


def _counts(line: str, counts: dict[str, float], said: dict[str, Any]) -> None:
    """Tokens and blocks of the pool, and what one step takes."""
    pool, blocks, page, limits = POOL.search(line), BLOCKS.search(line), PAGE.search(line), LIMITS.search(line)
    if pool is not None:
        counts["tokens"] = int(pool.group(2))
    if blocks is not None:
        counts["blocks"] = int(blocks.group(2))
        said["tokens_per_block"] = int(blocks.group(1))
    if page is not None:
        said["tokens_per_block"] = int(page.group(1))
    if limits is not None:
        said["max_num_tokens"] = int(limits.group(3))


LOG: Final = Log("tensorrt-llm", read, "tensorrt_llm/_torch/pyexecutor/_util.py")
