"""vLLM, end to end: what its log prints, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest

import tonnage as tn
from tonnage.memory.pool.kept import kept
from tonnage.memory.pool.kv_formats import VLLM
from tonnage.memory.pool.profiling import Batch, profile
from tonnage.placement.mesh import Mesh
from tonnage.placement.sharding import cuts

GIB = 2**30
H100 = {"engine": "vllm", "gpu": "h100-sxm-80gb"}
TABLE = {**H100, "engine_version": "0.11", "gpu_memory_utilization": 0.9, "context": 16000}


def serve(model: Any, **said: Any) -> Any:
    return tn.serve(model, suggest=False, **said)


def config(model_type: str, **keys: Any) -> dict[str, Any]:
    return {"config": {"model_type": model_type, **keys}, "name": model_type}


DSA = config(
    "deepseek_v32", hidden_size=7168, intermediate_size=18432, moe_intermediate_size=2048, num_hidden_layers=61,
    num_attention_heads=128, num_key_value_heads=128, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8,
    first_k_dense_replace=3, kv_lora_rank=512, q_lora_rank=1536, qk_nope_head_dim=128, qk_rope_head_dim=64,
    v_head_dim=128, vocab_size=129280, max_position_embeddings=163840, n_group=8, topk_group=4, index_head_dim=128,
    index_n_heads=64, index_topk=2048,
)  # fmt: skip


# The llm-d table: vLLM 0.11 on an H100, every figure printed to 0.01 GiB.


@pytest.mark.parametrize(
    ("model", "said", "activation"),
    [
        ("llama-3.1-8b", {}, 4.76),
        ("qwen3-32b", {}, 5.64),
        ("qwen3-32b", {"tp": 2}, 5.64),
        ("qwen3-0.6b", {}, 5.56),
        ("gpt-oss-20b", {}, 7.38),
        ("llama-3.3-70b", {"tp": 2}, 4.84),
    ],
)
def test_peak_of_the_profile_run_is_the_sort_of_the_logits(model: str, said: dict[str, Any], activation: float) -> None:
    peak = profile(tn.load(model), Mesh(**said), Batch(8192, 1024), (0, 11), width=2, compiled=True)
    cublas = 32 * 2**20
    assert peak.instant.startswith("sampler")
    assert (peak.likely + cublas) / GIB == pytest.approx(activation, rel=0.002)


@pytest.mark.parametrize(
    ("model", "said", "lines"),
    [
        (
            "llama-3.1-8b",
            {},
            [
                "Model loading took 14.9888 GiB",
                "Available KV cache memory: 51.38 GiB",
                "GPU KV cache size: 420,880 tokens",
                "Maximum concurrency for 16,000 tokens per request: 26.30x",
            ],
        ),
        (
            "llama-3.3-70b",
            {"tp": 2, "quant": "w8a8-fp8"},
            ["Available KV cache memory: 32.01 GiB", "GPU KV cache size: 209,792 tokens"],
        ),
    ],
)
def test_log_of_0_11(model: str, said: dict[str, Any], lines: list[str]) -> None:
    log = serve(model, **TABLE, **said).capacity["log"]
    assert [line for line in lines if line not in log] == []


def test_a_model_that_leaves_no_room_does_not_fit_and_says_so_as_the_engine() -> None:
    # llm-d: Llama-3.3-70B in FP8 on one H100 failed with -1.44 GiB left.
    found = serve("llama-3.3-70b", **TABLE, quant="w8a8-fp8")
    assert found.fit.verdict == "does not fit"
    assert "Available KV cache memory: -1.41 GiB" in found.capacity["log"]
    assert any("No available memory for the cache blocks" in c for c in found.caveats)
    assert found.fit.spare_bytes < 0


def test_too_little_room_for_one_sequence_is_told_with_both_sizes() -> None:
    found = serve("qwen3-32b", **{**TABLE, "context": 32000})
    assert found.fit.verdict == "does not fit"
    assert re.search(r"7.81 GiB KV cache is needed, which is larger than .* \(4.\d+ GiB\)", found.caveats[0])


def test_one_line_since_0_28_and_two_before() -> None:
    new = serve("llama-3.1-8b", **H100, context=8192, engine_version="0.28").capacity["log"]
    assert re.fullmatch(
        r"GPU KV cache size: [\d,]+ tokens, Maximum concurrency for 8,192 tokens per request: [\d.]+x", new[-1]
    )
    old = serve("llama-3.1-8b", **H100, context=8192, engine_version="0.27").capacity["log"]
    assert old[-1].startswith("Maximum concurrency for 8,192 tokens per request:")


def test_the_first_engine_prints_blocks() -> None:
    said = {"engine": "vllm", "engine_version": "0.7", "gpu": "l4", "context": 8192, "kv_cache_memory": "4.6016GiB"}
    log = serve("llama-3.1-8b", **said).capacity["log"]
    # Boot log of 2025-03: 2,356 blocks; 4 GiB of host memory hold 2,048.
    assert "# cuda blocks: 2356, # CPU blocks: 2048" in log


@pytest.mark.parametrize(("version", "utilization"), [("0.19", 0.9), ("0.20", 0.92), ("0.33", 0.92)])
def test_share_of_the_device_by_release(version: str, utilization: float) -> None:
    assert serve("llama-3.1-8b", **H100, engine_version=version).workload["gpu_memory_utilization"] == utilization


@pytest.mark.parametrize(
    ("gpu", "version", "tokens", "rows"),
    [
        ("h100-sxm-80gb", "0.33", 8192, 1024),
        ("a100-sxm-80gb", "0.33", 2048, 256),
        ("l40s", "0.33", 2048, 256),
        ("b200", "0.33", 16384, 1024),
        ("b200", "0.27", 8192, 1024),
    ],
)
def test_batch_of_a_step_by_device_and_release(gpu: str, version: str, tokens: int, rows: int) -> None:
    w = serve("llama-3.1-8b", engine="vllm", gpu=gpu, engine_version=version).workload
    assert (w["max_num_batched_tokens"], w["max_num_seqs"]) == (tokens, rows)


def test_a_newer_release_is_answered_with_a_caveat() -> None:
    found = serve("llama-3.1-8b", **H100, engine_version="0.40")
    assert any("newer than 0.33" in c for c in found.caveats)
    with pytest.raises(tn.UnsupportedError, match=r"before 0\.6"):
        serve("llama-3.1-8b", **H100, engine_version="0.5")


# State of every kind, per token on a rank.


@pytest.mark.parametrize(
    ("model", "said", "per_token"),
    [
        ("llama-3.1-8b", {}, 32 * 8 * 256 * 2),
        ("llama-3.1-8b", {"tp": 8}, 32 * 1 * 256 * 2),
        ("llama-3.1-8b", {"tp": 16}, 32 * 1 * 256 * 2),  # fewer heads than ranks: each is held twice
        ("llama-3.1-8b", {"kv_dtype": "fp8"}, 32 * 8 * 256),
        ("llama-3.1-8b", {"kv_dtype": "int8_per_token_head"}, 32 * 8 * (256 + 8)),
        ("llama-3.1-8b", {"kv_dtype": "fp8_per_token_head"}, 32 * 8 * (256 + 8)),
        ("llama-3.1-8b", {"kv_dtype": "nvfp4"}, 32 * 8 * 2 * (64 + 8)),
        ("deepseek-v3", {}, 61 * 576 * 2),
        ("deepseek-v3", {"tp": 8}, 61 * 576 * 2),  # a latent is on every rank
        ("deepseek-v3", {"kv_dtype": "fp8"}, 61 * 576),
        ("deepseek-v3", {"kv_dtype": "fp8_ds_mla"}, 61 * 656),
        (DSA, {}, 61 * (576 * 2 + 132)),
        (DSA, {"kv_dtype": "fp8"}, 61 * (656 + 132)),
        ("gpt-oss-20b", {}, 12 * 8 * 128 * 2),  # beyond the windows of 128
        ("mamba-130m", {}, 0),
        ("jamba-v0.1", {}, 4 * 8 * 256 * 2),
    ],
)
def test_bytes_of_a_token(model: Any, said: dict[str, Any], per_token: int) -> None:
    found = serve(model, engine="vllm", context=4096, **said)
    assert found.capacity["kv_bytes_per_token"] == per_token
    assert found.fit is None


def test_without_a_device_ranks_hold_weights_and_the_state_of_what_is_asked() -> None:
    found = serve("llama-3.1-8b", engine="vllm", context=4096, concurrency=3)
    assert found.capacity["tokens"] is None
    assert found.capacity["kv_bytes"] == 3 * 4096 * 131_072
    assert found.fullest.tier("requested") == 2 * 8_030_261_248 + 131_072 * 128 * 2 + 3 * 4096 * 131_072


@pytest.mark.parametrize(
    ("model", "bytes_of_a_state"),
    [
        # d_inner 1,536, 16 states, 4 taps; both in the weights' format.
        ("mamba-130m", 24 * (1536 * 3 + 1536 * 16) * 2),
        # Codestral: 64 layers, inner 8,192, 8 groups of 128, 128 heads of 64.
        ("mamba-codestral-7b", 64 * ((8192 + 2 * 8 * 128) * 3 + 128 * 64 * 128) * 2),
    ],
)
def test_states_as_the_engine_keeps_them(model: str, bytes_of_a_state: int) -> None:
    assert serve(model, engine="vllm", context=4096, dtype="bf16").capacity["kv_bytes"] == bytes_of_a_state


KIMI = config(
    "kimi_linear", hidden_size=2304, intermediate_size=9216, moe_intermediate_size=1024, num_hidden_layers=27,
    num_attention_heads=32, num_key_value_heads=32, vocab_size=163840, kv_lora_rank=512, q_lora_rank=None,
    qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, num_experts=256, num_experts_per_token=8,
    num_shared_experts=1, first_k_dense_replace=1, head_dim=72, model_max_length=1048576,
    linear_attn_config={
        "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
        "head_dim": 128,
        "kda_layers": [i for i in range(1, 28) if i not in (4, 8, 12, 16, 20, 24, 27)],
        "num_heads": 32,
        "short_conv_kernel_size": 4,
    },
)  # fmt: skip


def test_latents_beside_a_recurrence_widen_their_pages_in_steps_of_128() -> None:
    # Kimi Linear: 3 x 32 x 128 channels of 3 tokens in bf16, 32 matrices of 128 x 128 in fp32, over 1,152 B a token.
    found = serve(KIMI, engine="vllm", gpu="h100-sxm-80gb", tp=2, context=131072)
    state = 16 * 3 * 128 * 3 * 2 + 16 * 128 * 128 * 4
    block = -(-state // (128 * 1152)) * 128
    assert found.workload["block_size"] == block
    assert f"Setting attention block size to {block} tokens" in " ".join(found.capacity["log"])
    assert found.capacity["kv_bytes_per_token"] == 7 * 1152


def test_chunks_hold_what_is_in_flight_besides() -> None:
    llama = config(
        "llama4_text", hidden_size=5120, intermediate_size=8192, intermediate_size_mlp=16384, num_hidden_layers=48,
        num_attention_heads=40, num_key_value_heads=8, head_dim=128, vocab_size=202048, num_local_experts=16,
        num_experts_per_tok=1, attention_chunk_size=8192, max_position_embeddings=1048576,
    )  # fmt: skip
    kinds = [k.kind for layer in kept(tn.load(llama), {}) for k in layer]
    assert (kinds.count("chunked"), kinds.count("full")) == (36, 12)
    said = {"engine": "vllm", "gpu": "h200", "tp": 8, "context": 131072, "max_num_batched_tokens": 8192}
    new = serve(llama, **said, engine_version="0.25").capacity
    pool = new["blocks"] / (131072 // 16 + 3 * (8192 + 8192) // 16)
    assert new["max_concurrency"] == int(pool)
    # Until 0.13 chunks turned tables of several kinds off.
    old = serve(llama, **said, engine_version="0.13").capacity
    assert old["max_concurrency"] < new["max_concurrency"] / 2


def test_mixers_without_pages_are_refused() -> None:
    rwkv = config("rwkv", hidden_size=768, num_hidden_layers=12, vocab_size=50277, context_length=1024)
    with pytest.raises(tn.UnsupportedError, match="does not serve RwkvForCausalLM"):
        serve(rwkv, engine="vllm", context=512)


def test_cross_layer_sharing_keeps_nothing_for_layers_that_reuse() -> None:
    shared = config(
        "gemma3n_text", hidden_size=2048, num_hidden_layers=30, num_attention_heads=8, num_key_value_heads=2,
        head_dim=256, vocab_size=262400, sliding_window=512, num_kv_shared_layers=10, intermediate_size=8192,
        laurel_rank=64, altup_num_inputs=4, vocab_size_per_layer_input=262144, hidden_size_per_layer_input=256,
        activation_sparsity_pattern=[0.0] * 30,
    )  # fmt: skip
    layers = kept(tn.load(shared), cuts(Mesh()).dense)
    assert [len(found) for found in layers] == [1] * 20 + [0] * 10


def test_gemma_4_caches_values_though_they_have_no_matrix_and_loads_the_keys_into_both() -> None:
    gemma = config(
        "gemma4_text", hidden_size=5376, num_hidden_layers=60, num_attention_heads=32, num_key_value_heads=16,
        head_dim=256, global_head_dim=512, num_global_key_value_heads=4, intermediate_size=21504, vocab_size=262144,
        sliding_window=1024, attention_k_eq_v=True, hidden_size_per_layer_input=0, max_position_embeddings=262144,
        num_kv_shared_layers=0,
    )  # fmt: skip
    found = serve(gemma, engine="vllm", context=4096)
    assert found.capacity["kv_bytes_per_token"] == 10 * 4 * 1024 * 2
    loaded = sum(c.bytes for c in found.components if c.name == "weights" and not c.why.startswith("cosine"))
    assert loaded - 2 * found.model["parameters"] == 10 * 5376 * 4 * 512 * 2


# Inverse answers, by the pool's own rules.


def test_largest_context_and_concurrency_are_those_that_the_pool_just_holds() -> None:
    found = serve("llama-3.1-8b", **TABLE, concurrency=8)
    pool, c = found.capacity["tokens"], found.capacity
    assert c["max_concurrency"] == pool // 16000 == 26
    assert c["max_context"] == pool // 8 // 16 * 16
    again = serve("llama-3.1-8b", **{**TABLE, "context": c["max_context"]}, concurrency=8)
    assert again.capacity["max_concurrency"] == 8


def test_more_than_the_pool_holds_queues() -> None:
    found = serve("llama-3.1-8b", **TABLE, concurrency=27)
    assert found.fit.verdict == "does not fit"
    assert "from 27 sequences of 16,000 tokens on, requests queue" in found.caveats


def test_a_suggestion_for_a_pool_is_estimated_again() -> None:
    said: dict[str, Any] = {**TABLE, "engine_version": "0.33"}
    found: Any = tn.serve("llama-3.3-70b", **said)
    assert found.fit.suggestion.change["tp"] in (2, 4, 8)
    assert found.fit.suggestion.verdict == "fits"


def test_graphs_and_sampler_state_come_off_the_pool_of_newer_releases() -> None:
    new = {c.name for c in serve("llama-3.1-8b", **H100, engine_version="0.33").components}
    assert {"cuda_graphs", "other:sampler state"} <= new
    eager = {c.name for c in serve("llama-3.1-8b", **H100, engine_version="0.33", enforce_eager=True).components}
    assert "cuda_graphs" not in eager
    assert "cuda_graphs" not in {c.name for c in serve("llama-3.1-8b", **H100, engine_version="0.19").components}


def test_second_runner_keeps_counts_of_every_row_and_token() -> None:
    # 4.125 B x 1,024 rows x 128,256 entries (vllm/v1/worker/gpu/sample/penalties.py).
    found = serve("llama-3.1-8b", **H100, engine_version="0.33")
    state = next(c for c in found.components if c.name == "other:sampler state")
    assert state.bytes == 1024 * 128_256 * 33 // 8


def test_adapters_take_two_stacks_a_module() -> None:
    found = serve("llama-3.1-8b", engine="vllm", context=4096, max_loras=2, max_lora_rank=16)
    line = next(c for c in found.components if c.why.startswith("adapters"))
    D, F, KV = 4096, 14336, 1024
    sides = (D + D) + 2 * (D + KV) + (D + D) + 2 * (D + F) + (F + D)
    assert line.bytes == 32 * 2 * 16 * sides * 2


def test_stages_of_a_pipeline_hold_their_layers_and_the_smaller_pool() -> None:
    found = serve("llama-3.1-8b", **H100, context=8192, pp=2)
    first, last = found.ranks
    assert [r.rank for r in found.ranks] == ["pp0", "pp1"]
    kept_on = [sum(c.bytes for c in r.components if c.name == "kv_cache") for r in (first, last)]
    assert kept_on[0] == kept_on[1]
    whole = sum(c.bytes for r in found.ranks for c in r.components if c.why.startswith("kept"))
    assert whole == 2 * 8_030_261_248


# What the engine refuses.


@pytest.mark.parametrize(
    ("model", "said", "words"),
    [
        ("qwen3-32b", {"context": 65536}, "greater than the 40,960 positions"),
        ("llama-3.1-8b", {"tp": 3}, "does not divide"),
        ("deepseek-v3", {"kv_dtype": "int8_per_token_head"}, "keeps no latent so"),
        ("llama-3.1-8b", {"kv_dtype": "fp8_ds_mla"}, "is for latents"),
        ("llama-3.1-8b", {"kv_dtype": "nvfp4", "engine_version": "0.11"}, r"from 0\.20 on"),
        ("llama-3.1-8b", {"kv_dtype": "q8_0"}, "no such cache"),
        ("llama-3.1-8b", {"quant": "fp8", "gpu": "v100-sxm2-16gb"}, "minimum capability 75, current capability 70"),
        ("llama-3.1-8b", {"quant": "nf4", "engine_version": "0.33"}, r"no quantization method bitsandbytes from 0\.28"),
        ("mixtral-8x7b", {"tp": 4, "ep": 2}, "spreads experts over all"),
        ("llama-3.1-8b", {"speculative_tokens": 2}, "no prediction layer of its own"),
        ("llama-3.1-8b", {"max_num_seqs": 512, "max_num_batched_tokens": 256}, "fewer than max_num_seqs"),
        ("llama-3.1-8b", {"prompt": 12}, "no such setting"),
    ],
)
def test_refused_as_the_engine_refuses(model: str, said: dict[str, Any], words: str) -> None:
    with pytest.raises(tn.TonnageError, match=words):
        serve(model, **{**H100, **said})


def test_what_others_hold_may_keep_it_from_starting() -> None:
    found = serve("llama-3.1-8b", **H100, context=8192, in_use="20GiB")
    assert found.fit.verdict == "does not fit"
    assert any("refuses to start where less than its share is free" in c for c in found.caveats)


def test_a_pool_that_is_said_does_not_respect_the_device() -> None:
    found = serve("llama-3.1-8b", **{**H100, "gpu": "rtx-4090"}, context=8192, kv_cache_memory="20GiB")
    assert found.fit.verdict == "does not fit"
    assert any("out of memory" in c for c in found.caveats)


def test_every_format_of_the_cache_has_an_even_size() -> None:
    for form in VLLM.values():
        for layer in kept(tn.load("llama-3.1-8b"), {}):
            assert form.token(layer[0]) % 2 == 0


def test_scaled_angles_reach_beyond_the_positions() -> None:
    qwen = config(
        "qwen2", hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, vocab_size=151936, max_position_embeddings=32768,
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    )  # fmt: skip
    found = serve(qwen, engine="vllm", context=100_000)
    table = next(c for c in found.components if c.why.startswith("cosine and sine"))
    assert table.bytes == 131_072 * 64 * 2
    with pytest.raises(tn.InputError, match="greater than the 131,072 positions"):
        serve(qwen, engine="vllm", context=140_000)


def test_what_is_stored_in_fp32_runs_in_16_bit_unless_told() -> None:
    # vllm/config/model.py ``_resolve_auto_dtype``; fp16 before 0.10.
    formats = [
        serve("gpt2", engine="vllm", gpu=gpu, engine_version=v, context=1024).workload["dtype"]
        for gpu, v in (("l4", "0.33"), ("t4", "0.33"), ("l4", "0.9"))
    ]
    assert formats == ["bf16", "fp16", "fp16"]
    assert serve("gpt2", engine="vllm", gpu="l4", dtype="fp32", context=1024).workload["dtype"] == "fp32"


def test_bf16_needs_a_device_that_has_it() -> None:
    assert serve("qwen2.5-0.5b", engine="vllm", gpu="t4", context=1024).workload["dtype"] == "fp16"
    for said in ({"dtype": "bf16"}, {"engine_version": "0.8"}):
        with pytest.raises(tn.InputError, match="Bfloat16 is only supported"):
            serve("qwen2.5-0.5b", engine="vllm", gpu="t4", context=1024, **said)


# The first engine: Llama 3.1 8B with the defaults of a long context, 2,048 tokens and 256 rows a step.


def test_the_first_engines_sampler_over_all_rows_prints_this_peak() -> None:
    # 1.19 GiB in two public documents: a safety study's README, and a book's example 4-3 (vLLM 0.6.6 on an H100).
    peak = profile(tn.load("llama-3.1-8b"), Mesh(), Batch(2048, 256), (0, 6), width=2, compiled=False)
    assert peak.instant.startswith("sampler")
    assert f"{(peak.likely + 8_519_680) / GIB:.2f}" == "1.19"


@pytest.mark.parametrize("rows", [1, 16, 32])
def test_few_rows_leave_the_forward_pass_as_the_peak(rows: int) -> None:
    # oracle-samples/oci-data-science-ai-samples, ai-quick-actions/troubleshooting-tips.md: 0.22 GiB, which 256 rows
    # exceed five times over; the command is not told.
    peak = profile(tn.load("llama-3.1-8b"), Mesh(), Batch(2048, rows), (0, 7), width=2, compiled=False)
    assert peak.instant.startswith("forward")
    # Input, residual stream and output of the feed-forward beside gate, up and their product.
    assert peak.likely == 2048 * (3 * 4096 + 3 * 14336) * 2
    assert f"{(peak.likely + 8_519_680) / GIB:.2f}" == "0.22"


# What a loader prints is what the allocator's blocks hold.


@pytest.mark.parametrize(
    ("model", "tp", "printed"),
    [
        ("llama-3.1-8b", 1, "14.9888"),  # redhat-performance/configiq issue 112 and many others
        ("qwen3-14b", 1, "27.5184"),  # a boot log prints 27.5185; 27.5179 is what the tensors take
        ("qwen3-32b", 2, "30.5853"),  # llm-d prints 30.59: 125 MiB of a matrix take 126 in each of 64 layers
    ],
)
def test_remainders_that_stay_in_a_block_count_as_loaded(model: str, tp: int, printed: str) -> None:
    found = serve(model, **{**TABLE, "tp": tp, "context": 8192})
    assert found.capacity["log"][0] == f"Model loading took {printed} GiB"


@pytest.mark.parametrize(("model", "printed"), [("gpt-oss-20b", 13.7194), ("gpt-oss-120b", 65.9651)])
def test_marlin_pads_experts_and_leaves_their_biases_in_16_bit(model: str, printed: float) -> None:
    # Boot logs in public files; the layouts of Hopper's kernels would be 0.3 and 1.6 GiB smaller.
    found = serve(model, engine="vllm", engine_version="0.13", gpu="a100-80gb", context=8192, quant="checkpoint")
    loaded = sum(c.bytes for c in found.components if c.name in ("weights", "rounding")) / GIB
    assert loaded == pytest.approx(printed, rel=0.001)


@pytest.mark.parametrize(
    ("model", "share", "loaded", "pool"), [("gpt-oss-20b", 0.9, 13.47, "50.30"), ("gpt-oss-120b", 0.95, 64.38, "3.35")]
)
def test_hopper_keeps_the_scales_of_mxfp4_experts_twice(model: str, share: float, loaded: float, pool: str) -> None:
    # llm-d's capacity table, vLLM 0.11 on an H100 (pools of 50.28 and 3.33): the loader deletes the values alone.
    setting = {"engine": "vllm", "engine_version": "0.11", "gpu": "h100-sxm-80gb", "gpu_memory_utilization": share}
    found = serve(model, **setting, context=16000, quant="checkpoint")
    held = sum(c.bytes for c in found.components if c.name in ("weights", "rounding")) / GIB
    assert held == pytest.approx(loaded, rel=0.002)
    assert f"Available KV cache memory: {pool} GiB" in found.capacity["log"]
