"""Words that several stacks write alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tonnage.launch._values import WRITTEN


def formats(workload: Mapping[str, Any], methods: Mapping[str, str]) -> list[str]:
    """The cache's format where it is not that of the weights, and the quantization method of a scheme.

    Args:
        workload: that is written.
        methods: the scheme of each method; of several for one scheme the first is written.

    >>> formats({"dtype": "bf16", "kv_dtype": "fp8", "quant": "nf4"}, {"bitsandbytes": "nf4"})
    ['--kv-cache-dtype', 'fp8', '--quantization', 'bitsandbytes']
    """
    out: list[str] = []
    kv = workload.get("kv_dtype")
    if kv is not None and kv != workload.get("dtype"):
        out += ["--kv-cache-dtype", WRITTEN.get(kv, kv)]
    method = {scheme: name for name, scheme in reversed(list(methods.items()))}.get(workload.get("quant") or "")
    return [*out, "--quantization", method] if method is not None else out


def adapters(workload: Mapping[str, Any], slots: str) -> list[str]:
    """Adapters, ``slots`` being the flag of how many are held at once.

    >>> adapters({"max_loras": 2, "max_lora_rank": 64}, "--max-loras")
    ['--enable-lora', '--max-loras', '2', '--max-lora-rank', '64']
    """
    if not workload.get("max_loras"):
        return []
    rank = workload.get("max_lora_rank")
    return ["--enable-lora", slots, str(workload["max_loras"]), *(["--max-lora-rank", str(rank)] if rank else [])]
