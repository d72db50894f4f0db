"""vLLM: caches over several ranks and in host memory, pools of a number that is said, weights in host memory."""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn

GIB = 2**30
H200 = {"engine": "vllm", "gpu": "h200"}

KIMI_K2 = {
    "config": {
        "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
        "num_hidden_layers": 61, "num_attention_heads": 64, "num_key_value_heads": 64, "n_routed_experts": 384,
        "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 1, "kv_lora_rank": 512,
        "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 163840,
        "max_position_embeddings": 262144, "n_group": 1, "topk_group": 1,
    },
    "name": "kimi-k2",
}  # fmt: skip
GEMMA_4_31B = {
    "config": {
        "model_type": "gemma4_text", "hidden_size": 5376, "num_hidden_layers": 60, "num_attention_heads": 32,
        "num_key_value_heads": 16, "head_dim": 256, "global_head_dim": 512, "num_global_key_value_heads": 4,
        "intermediate_size": 21504, "vocab_size": 262144, "sliding_window": 1024, "attention_k_eq_v": True,
        "hidden_size_per_layer_input": 0, "max_position_embeddings": 262144, "num_kv_shared_layers": 0,
    },
    "name": "gemma-4-31b",
}  # fmt: skip


def serve(model: Any, **said: Any) -> Any:
    return tn.serve(model, suggest=False, **said)


@pytest.mark.parametrize(("shards", "room", "tokens"), [(None, 46.80, 715_072), (8, 46.803, 5_721_088)])
def test_ranks_that_share_the_tokens_of_a_latent(shards: int | None, room: float, tokens: int) -> None:
    # vLLM's recipe for Kimi-K2-Thinking: 46.80 GiB on eight ranks, with and without --decode-context-parallel-size 8.
    found = serve(
        KIMI_K2, **H200, engine_version="0.11", tp=8, context=262_144, kv_cache_memory=f"{room}GiB",
        decode_context_parallel_size=shards,
    )  # fmt: skip
    assert f"GPU KV cache size: {tokens:,} tokens" in found.capacity["log"]


def test_ranks_that_hold_copies_of_a_head_share_its_tokens() -> None:
    # https://github.com/vllm-project/vllm/pull/24864: Qwen3-235B on eight ranks, two of which hold each of 4 heads.
    blocks = 1_723_584 // 2 // 16
    found = serve(
        "qwen3-235b-a22b", **H200, engine_version="0.11", tp=8, context=32_768, decode_context_parallel_size=2,
        num_gpu_blocks_override=blocks,
    )  # fmt: skip
    assert "GPU KV cache size: 1,723,584 tokens" in found.capacity["log"]
    # The log: 6.57 requests of 262,144 tokens.
    assert f"{1_723_584 / 262_144:.2f}" == "6.57"
    assert found.capacity["kv_bytes"] == 94 * 2 * 128 * 2 * 32_768 // 2


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"tp": 4, "decode_context_parallel_size": 3}, "tp_size=4 must be divisible by dcp_size=3"),
        ({"tp": 8, "decode_context_parallel_size": 2}, "greater than the model's 8 key/value heads"),
        ({"tp": 16, "decode_context_parallel_size": 4}, "exceeds the 2 copies"),
        ({"tp": 16, "decode_context_parallel_size": 2, "engine_version": "0.9"}, r"from 0\.10 on"),
    ],
)
def test_degrees_that_the_engine_refuses(said: dict[str, Any], words: str) -> None:
    with pytest.raises(tn.TonnageError, match=words):
        serve("llama-3.1-8b", **H200, context=8192, **said)


def test_windows_are_not_shared() -> None:
    with pytest.raises(tn.UnsupportedError, match="no caches of windows"):
        serve("gpt-oss-20b", **H200, context=8192, tp=16, decode_context_parallel_size=2)


def test_a_number_of_blocks_that_is_said_is_the_pool() -> None:
    found = serve("llama-3.1-8b", **H200, context=8192, num_gpu_blocks_override=1000)
    assert found.capacity["blocks"] == 1000
    assert next(c.bytes for c in found.components if c.name == "kv_cache") == 1000 * 16 * 131_072
    assert found.capacity["max_concurrency"] == 1


def test_layers_go_to_host_memory_until_there_are_enough() -> None:
    # A public run of Gemma 4 31B with --cpu-offload-gb 24 prints 24.36: whole matrices go.
    found = serve(GEMMA_4_31B, engine="vllm", gpu="h200", context=8192, cpu_offload="24GiB")
    moved = next(c for c in found.components if c.tier == "host")
    assert f"{moved.bytes / GIB:.2f}" == "24.36"
    whole = serve(GEMMA_4_31B, engine="vllm", gpu="h200", context=8192)
    sizes = [sum(c.bytes for c in r.components if c.name == "weights" and c.tier != "host") for r in (whole, found)]
    assert sizes[0] - sizes[1] == moved.bytes


def test_pages_in_host_memory_are_a_place_of_their_own() -> None:
    found = serve("llama-3.1-8b", **H200, context=8192, tp=2, kv_offloading_size="64GiB")
    host = [c for c in found.components if c.tier == "host"]
    assert [(c.name, c.bytes) for c in host] == [("kv_cache", 32 * GIB)]
    same = serve("llama-3.1-8b", **H200, context=8192, tp=2)
    assert found.capacity["tokens"] == same.capacity["tokens"]


def test_flags_of_a_launch_command() -> None:
    from tonnage.launch import read, write

    line = "vllm serve org/name --cpu-offload-gb 1.5 --kv-offloading-size 64 -tp 8 --decode-context-parallel-size 8"
    found = read(line + " --num-gpu-blocks-override 512")
    assert found.said["cpu_offload"] == "1610612736 B"
    assert found.said["kv_offloading_size"] == "68719476736 B"
    assert (found.said["decode_context_parallel_size"], found.said["num_gpu_blocks_override"]) == (8, 512)
    assert not found.unmodelled
    text, _ = write("vllm", "org/name", {"engine": "vllm", "cpu_offload": 3 * GIB // 2}, {"cpu_offload": "1.5GiB"})
    assert text == "vllm serve org/name --cpu-offload-gb 1.5"
