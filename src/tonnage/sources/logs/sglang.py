"""What SGLang prints about memory, from 0.4.4 to 0.5.23; what it calls GB is GiB.

Wordings: sgl-project/sglang, python/sglang/srt/model_executor/model_runner.py, mem_cache/memory_pool.py and
kv_cache_configurator.py, managers/scheduler.py, of each release.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from tonnage.sources.logs import Log
from tonnage.sources.logs._sizes import figure, pattern, plain, typed, values
from tonnage.units import GiB
from tonnage.workload.told import Figure, Told

LOADED: Final = pattern(r"Load weight end\..*mem usage=<size> GB")
START: Final = pattern(r"Load weight begin\. avail mem=<size> GB")
POOL: Final = pattern(r"KV Cache is allocated\..*?#tokens: <whole>")
HALVES: Final = pattern(r"K size: <size> GB, V size: <size> GB")
WHOLE: Final = pattern(r"KV size: <size> GB")
STATES: Final = pattern(
    r"Mamba Cache is allocated\. max_mamba_cache_size: <whole>, conv_state size: <size> ?GB, "
    r"ssm_state size: <size> ?GB"
)
WINDOWS: Final = pattern(r"(?:full_layer_tokens=<whole>, )?swa_layer_tokens=<whole>")
TOTAL: Final = pattern(r"max_total_num_tokens=<whole>, chunked_prefill_size=(-?\d+)(?:.*?context_len=<whole>)?")
CAPTURED: Final = pattern(r"Capture cuda graph end\..*?mem usage=<size> GB")
STOPPED: Final = re.compile(r"(Not enough memory\..{0,200}|CUDA out of memory.{0,160})")
VERSION: Final = re.compile(r"sglang(?:[-_ ]version)?[=: v]+(\d+\.\d+\.\d+)", re.I)
SETTINGS: Final = {
    "model": "model_path", "mem_fraction_static": "mem_fraction_static", "tp": "tp_size", "pp": "pp_size",
    "dp": "dp_size", "context": "context_length", "kv_dtype": "kv_cache_dtype", "page_size": "page_size",
    "chunked_prefill_size": "chunked_prefill_size", "cuda_graph_max_bs": "cuda_graph_max_bs",
    "swa_full_tokens_ratio": "swa_full_tokens_ratio", "mamba_full_memory_ratio": "mamba_full_memory_ratio",
}  # fmt: skip
COUNTS: Final = ("tp", "pp", "dp", "context", "page_size", "chunked_prefill_size", "cuda_graph_max_bs")
SHARES: Final = ("mem_fraction_static", "swa_full_tokens_ratio", "mamba_full_memory_ratio")


def read(lines: Iterable[str]) -> Told | None:
    """What the lines tell; every rank prints its own, and the first one counts."""
    said: dict[str, Any] = {}
    figures: dict[str, Figure] = {}
    counts: dict[str, float] = {}
    notes: dict[str, None] = {}
    free: int | None = None
    release: str | None = None
    for raw in lines:
        line = plain(raw)
        if "server_args" in line:
            said.update(typed(values(line, SETTINGS), COUNTS, SHARES, ()))
        start, version, stopped = START.search(line), VERSION.search(line), STOPPED.search(line)
        free = round(float(start.group(1)) * GiB) if start is not None and free is None else free
        release = version.group(1) if version is not None and release is None else release
        for found in _figures(line):
            figures.setdefault(found.name, found)
        _counts(line, counts, said)
        if stopped is not None and (figures or counts or free):
            notes[f"it stopped: {stopped.group(1).strip()}"] = None
    if not figures and not counts and free is None and not said:
        return None
    return Told(
        engine="sglang", release=release, model=said.pop("model", None), said=said, figures=tuple(figures.values()),
        counts=counts, free=free, notes=tuple(notes),
    )  # fmt: skip


def _figures(line: str) -> list[Figure]:
    """Sizes of one line."""
    out = []
    loaded, captured, states = LOADED.search(line), CAPTURED.search(line), STATES.search(line)
    if loaded is not None:
        parts = ("weights", "rounding", "other:non-torch")
        out.append(figure("weights", loaded.group(1), "GB", line, parts=parts))
    if captured is not None:
        out.append(figure("cuda_graphs", captured.group(1), "GB", line, parts=("cuda_graphs",)))
    if states is not None:
        both = f"{float(states.group(2)) + float(states.group(3)):.2f}"
        out.append(figure("recurrent_state", both, "GB", line, parts=("recurrent_state",)))
    if POOL.search(line):
        halves, whole = HALVES.search(line), WHOLE.search(line)
        if halves is not None:
            key, value = (figure("kv_cache", text, "GB", line, parts=("kv_cache",)) for text in halves.groups())
            out.append(key.but(bytes=key.bytes + value.bytes, half=key.half + value.half))
        elif whole is not None:
            out.append(figure("kv_cache", whole.group(1), "GB", line, parts=("kv_cache",)))
    return out


def _counts(line: str, counts: dict[str, float], said: dict[str, Any]) -> None:
    """Tokens and slots of the pools."""
    pool, states, windows, total = (p.search(line) for p in (POOL, STATES, WINDOWS, TOTAL))
    if total is not None:
        counts["tokens"] = int(total.group(1))
        if int(total.group(2)) > 0:
            said.setdefault("chunked_prefill_size", int(total.group(2)))
        if total.group(3):
            said.setdefault("context", int(total.group(3)))
    if pool is not None:
        counts.setdefault("tokens", int(pool.group(1)))
    if states is not None:
        counts.setdefault("slots", int(states.group(1)))
    if windows is not None:
        counts.setdefault("window_tokens", int(windows.group(2)))


LOG: Final = Log("sglang", read, "python/sglang/srt/model_executor/model_runner.py")
