"""What could make a model that is run fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tonnage.estimate.result import Result
from tonnage.plan.changes import Change, Ladder


def ladders(result: Result) -> tuple[list[Ladder], list[Ladder]]:
    """Changes of what was answered: those that alter nothing of it, and the others."""
    w, room = result.workload, result.capacity or {}
    found: list[Ladder] = list(_pooled(w)) if room.get("tokens") is not None else []
    found += [(change,) for change in _changes(w, room)]
    return [one for one in found if not one[0].alters], [one for one in found if one[0].alters]


def _pooled(w: Mapping[str, Any]) -> Iterator[Ladder]:
    """Changes for engines with a pool: more devices, a narrower cache, a larger share; eager leaves graphs out."""
    if not w.get("ep") or w["ep"] == 1:
        yield tuple(
            Change({"tp": tp, "gpus": w["gpus"] // w["tp"] * tp}, f"tensor parallelism over {tp} devices")
            for tp in (2 * w["tp"], 4 * w["tp"], 8 * w["tp"])
        )
    for key in ("gpu_memory_utilization", "mem_fraction_static", "free_gpu_memory_fraction"):
        share = w.get(key)
        if share is not None and share < 0.95:
            yield (Change({key: 0.95}, "a larger share of the device"),)
    if w.get("enforce_eager") is False:
        yield (Change({"enforce_eager": True}, "no CUDA graphs"),)
    if w["kv_dtype"] in ("bf16", "fp16"):
        yield (Change({"kv_dtype": "fp8_e4m3"}, "keys and values in fp8", ("kv_dtype",)),)


def _changes(w: Mapping[str, Any], room: Mapping[str, Any]) -> Iterator[Change]:
    context, concurrency = w["context"], w["concurrency"]
    if w["logits"] == "all":
        yield Change({"logits": "last"}, "logits of the last position only")
    if w["attention"] == "eager":
        yield Change({"attention": "sdpa"}, "fused attention")
    if w["prompt"] is not None and w["prompt"] > 512:
        yield Change({"prompt": 512}, "a shorter prompt", ("prompt",))
    if concurrency > 1 and (room.get("max_concurrency") or 0) >= 1:
        yield Change({"concurrency": room["max_concurrency"]}, "fewer sequences at once", ("concurrency",))
    if (room.get("max_context") or 0) >= 1 and room["max_context"] < context:
        n, asked = room["max_context"], w["prompt"]
        prompt = {} if asked is None or asked <= n else {"prompt": n}
        yield Change({"context": n, **prompt}, "a shorter context", ("context",))
    if w["quant"] in (None, "none"):
        yield Change({"quant": "nf4" if w["engine"] == "transformers" else "fp8"}, "quantized weights", ("quant",))
    if w["dtype"] == "fp32":
        yield Change({"dtype": "bf16"}, "weights in bf16", ("dtype",))
