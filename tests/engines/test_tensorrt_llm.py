"""TensorRT-LLM: pools as its log prints them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage.memory.pool.kept import kept
from tonnage.memory.pool.kv_formats import TENSORRT

GIB = 2**30
H100 = {"engine": "tensorrt-llm", "gpu": "h100-sxm-80gb"}
FAMILIES = Path(__file__).parent.parent / "families" / "data"
MIXED = json.loads((FAMILIES / "qwen3_next.json").read_text(encoding="utf-8"))["config"]


def serve(model: Any, **said: Any) -> Any:
    return tn.serve(model, suggest=False, **said)


@pytest.mark.parametrize(
    ("model", "form", "tokens", "printed"),
    [
        # "[MemUsageChange] Allocated X GiB for max tokens in paged KV cache (N)."
        ("smollm2-135m", "bf16", 422_048, "9.06"),  # 13,189 blocks of 32 (lm7 documentation)
        ("llama-3.1-8b", "bf16", 220_480, "26.91"),  # dynamo's example, blocks of 64
    ],
)
def test_tokens_of_a_pool_print_as_the_log_does(model: str, form: str, tokens: int, printed: str) -> None:
    token = sum(TENSORRT[form].token(k) for layer in kept(tn.load(model), {}) for k in layer)
    assert f"{tokens * token / GIB:.2f}" == printed


def test_kv_size_of_a_latent_in_fp8() -> None:
    # "kv size is 35136" in a log of 1.x.
    found = serve("deepseek-v3", engine="tensorrt-llm", tp=8, context=8192, kv_dtype="fp8")
    assert found.capacity["kv_bytes_per_token"] == 35_136


def test_the_pool_is_a_fraction_of_what_is_left() -> None:
    part, most = (
        serve("llama-3.1-8b", **H100, context=8192, free_gpu_memory_fraction=f).capacity["tokens"] for f in (0.45, 0.9)
    )
    assert most / part == pytest.approx(2, rel=1e-4)
    found = serve("llama-3.1-8b", **H100, context=8192)
    tokens = found.capacity["tokens"]
    assert found.workload["free_gpu_memory_fraction"] == 0.9
    size = f"{tokens * 131_072 / GIB:.2f}"
    assert (
        f"[MemUsageChange] Allocated {size} GiB for max tokens in paged KV cache ({tokens})." in found.capacity["log"]
    )
    assert found.capacity["blocks"] * 32 == tokens


def test_largest_context_and_concurrency_are_those_that_the_pool_just_holds() -> None:
    found = serve("llama-3.1-8b", **H100, context=8192, concurrency=10)
    blocks = found.capacity["blocks"]
    assert found.capacity["max_concurrency"] == blocks // 256
    assert found.capacity["max_context"] == blocks // 10 * 32


def test_what_is_not_modelled_is_refused() -> None:
    with pytest.raises(tn.UnsupportedError, match="state is not modelled yet"):
        serve({"config": {**MIXED, "architectures": ["Qwen3NextForCausalLM"]}, "name": "mixed"}, **H100)
    with pytest.raises(tn.UnsupportedError, match="does not serve JambaForCausalLM; --engine vllm or transformers"):
        serve("jamba-v0.1", **H100)
    with pytest.raises(tn.UnsupportedError, match=r"before 1\.0"):
        serve("llama-3.1-8b", **H100, engine_version="0.20")
    with pytest.raises(tn.InputError, match="no such setting"):
        serve("llama-3.1-8b", **H100, gpu_memory_utilization=0.9)
