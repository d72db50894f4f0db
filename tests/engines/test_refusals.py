"""Settings that the engines of data centres refuse, each with the engine's reason."""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn
from tonnage.errors import UnsupportedError

SPARSE = {
    "config": {
        "model_type": "deepseek_v32", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
        "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "n_routed_experts": 256,
        "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "kv_lora_rank": 512,
        "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280,
        "max_position_embeddings": 163840, "n_group": 8, "topk_group": 4, "index_head_dim": 128, "index_n_heads": 64,
        "index_topk": 2048,
    },
    "name": "deepseek-v3.2",
}  # fmt: skip
LLAMA, H100, A100, T4 = "llama-3.1-8b", "h100-sxm-80gb", "a100-sxm-80gb", "t4"


@pytest.mark.parametrize(
    ("engine", "model", "said", "words"),
    [
        ("vllm", "qwen2.5-0.5b", {"tp": 4}, "tp = 4 does not divide 14 heads"),
        ("vllm", LLAMA, {"pp": 33}, "there are only 32 layers"),
        ("vllm", LLAMA, {"block_size": 7}, "kernels take a multiple of 16"),
        ("vllm", LLAMA, {"block_size": 48, "engine_version": "0.14"}, "kernels take 1, 8, 16, 32, 64, 128, 256"),
        ("vllm", LLAMA, {"block_size": 256, "engine_version": "0.11"}, "kernels take 1, 8, 16, 32, 64, 128$"),
        ("vllm", LLAMA, {"max_loras": 1, "max_lora_rank": 17}, r"max_lora_rank \(17\) must be one of"),
        ("vllm", LLAMA, {"max_loras": 1, "max_lora_rank": 320, "engine_version": "0.7"}, "must be one of"),
        ("vllm", LLAMA, {"tp": 2, "ep": 2}, "Number of experts in the model must be greater than 0"),
        ("vllm", LLAMA, {"limit_mm_per_prompt": "image=1", "engine_version": "0.9"}, "only supported for multimodal"),
        ("vllm", LLAMA, {"gpu_memory_utilization": 0.0}, "from 0 to 1"),
        ("vllm", LLAMA, {"kv_dtype": "nvfp4", "engine_version": "0.24"}, "nvfp4 on this GPU .compute capability 90"),
        ("vllm", "gemma-2-9b", {"dtype": "fp16"}, "'gemma2' does not support float16. Reason: Numerical instability"),
        ("vllm", SPARSE, {"gpu": A100, "tp": 8}, "sparse attention on this GPU: minimum capability 90"),
        ("sglang", LLAMA, {"tp": 3}, "does not divide 32 heads"),
        ("sglang", LLAMA, {"quant": "hqq"}, "sglang has no quantization method hqq"),
        ("sglang", LLAMA, {"quant": "fp8", "gpu": T4, "dtype": "fp16"}, "fp8 is not supported for the current GPU"),
        ("sglang", LLAMA, {"mem_fraction_static": 0.0}, "from 0 to 1"),
        ("tensorrt-llm", LLAMA, {"gpu": "v100-sxm2-16gb", "dtype": "fp16"}, "needs a compute capability of 8"),
        ("tensorrt-llm", LLAMA, {"quant": "q4_k_m"}, "tensorrt-llm has no quantization method gguf"),
        ("tensorrt-llm", LLAMA, {"quant": "fp8", "gpu": A100}, "minimum capability 89, current capability 80"),
        ("tensorrt-llm", LLAMA, {"tokens_per_block": 24}, "must be a power of 2"),
        ("tensorrt-llm", LLAMA, {"kv_dtype": "nvfp4"}, "on Blackwell alone"),
        ("tgi", LLAMA, {"quant": "mxfp4"}, "tgi has no quantization method mxfp4"),
        ("tgi", LLAMA, {"quant": "nvfp4"}, "tgi has no quantization method"),
        ("tgi", LLAMA, {"tp": 16}, "must be divisible by num_shards"),
    ],
)
def test_refused_as_the_engine_refuses(engine: str, model: Any, said: dict[str, Any], words: str) -> None:
    with pytest.raises(tn.TonnageError, match=words):
        tn.serve(model, engine=engine, suggest=False, **{"gpu": H100, "context": 2048, **said})


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (LLAMA, {"kv_dtype": "nvfp4", "engine_version": "0.32"}),
        (LLAMA, {"kv_dtype": "nvfp4", "engine_version": "0.24", "gpu": "b200"}),
        (LLAMA, {"max_loras": 1, "max_lora_rank": 320, "engine_version": "0.9"}),
        (LLAMA, {"block_size": 48}),
        # FlashInfer keeps FP8 on Ampere: https://github.com/mitchross/talos-argocd-proxmox/pull/1995.
        (LLAMA, {"kv_dtype": "fp8", "gpu": "rtx-3090", "kv_cache_memory": "2GiB"}),
        (LLAMA, {"limit_mm_per_prompt": "image=1"}),
    ],
)
def test_taken_as_the_engine_takes_it(model: str, said: dict[str, Any]) -> None:
    tn.serve(model, engine="vllm", suggest=False, **{"gpu": H100, "context": 2048, **said})


def test_models_that_are_unstable_in_fp16_run_in_fp32_where_there_is_no_bf16() -> None:
    found = tn.serve("gemma-2-2b", engine="vllm", gpu=T4, context=2048, suggest=False)
    assert found.workload["dtype"] == "fp32"
    assert tn.serve("llama-3.2-1b", engine="vllm", gpu=T4, context=2048, suggest=False).workload["dtype"] == "fp16"


def test_models_without_a_cache_have_no_pool() -> None:
    with pytest.raises(UnsupportedError, match="bert keeps no cache"):
        tn.serve("bert-base-uncased", engine="sglang", gpu="l4")
