"""SGLang: its heuristics, its pools, and the lines of its log."""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn
from tonnage.memory.pool.kept import kept
from tonnage.memory.pool.slots import Cells, divided, sequences
from tonnage.placement.mesh import Mesh
from tonnage.placement.sharding import cuts

GIB = 2**30
H100 = {"engine": "sglang", "gpu": "h100-sxm-80gb"}


def serve(model: Any, **said: Any) -> Any:
    return tn.serve(model, suggest=False, **said)


@pytest.mark.parametrize(
    ("model", "said", "tokens", "printed"),
    [
        ("llama-3.1-8b", {}, 442_750, "27.02"),  # SGLang's FA3 unit test
        ("llama-3.1-8b", {}, 38_141, "2.33"),
        ("qwen3-235b-a22b", {"tp": 4}, 367_404, "8.23"),  # vllm issue 21348
    ],
)
def test_keys_print_as_the_log_does(model: str, said: dict[str, Any], tokens: int, printed: str) -> None:
    layers = kept(tn.load(model), cuts(Mesh(**said)).dense)
    token = sum(2 * k.elements for layer in layers for k in layer)
    found = divided(tokens * token, Cells(token), page=1, ratio=0.8, states=0.9)
    assert found.tokens == tokens
    assert f"{found.kv_bytes / 2 / GIB:.2f}" == printed


def test_slots_of_states_print_as_the_log_does() -> None:
    # Qwen3.8-27B: 48 layers of 48 heads of 128 x 128 in fp32, 360 slots and one that pads: 50.77 GB.
    state = 48 * 48 * 128 * 128 * 4
    found = divided(100 * GIB, Cells(65_536, state=state), page=1, ratio=0.8, states=0.9, slots=360)
    assert f"{found.state_bytes / GIB:.2f}" == "50.77"


def test_states_take_their_ratio_of_the_room() -> None:
    found = divided(1900, Cells(10, state=9), page=1, ratio=0.8, states=0.9)
    assert found.slots == int((1900 * 0.9 / 1.9 - 9) // 9)
    assert found.tokens == (1900 - (found.slots + 1) * 9) // 10


def test_windows_have_a_smaller_pool_of_their_own() -> None:
    found = divided(18_000, Cells(10, window=10, span=128), page=1, ratio=0.8, states=0.9)
    assert (found.tokens, found.window_tokens) == (1000, 800)
    assert sequences(found, Cells(10, window=10, span=128), 500, 5) == 2


@pytest.mark.parametrize(
    ("gpu", "said", "chunk", "graphs", "fraction"),
    [
        # 0.5.23: 512 + 1.5 x 8,192 + 128 + 2 x 256 + 8 x 58 MiB of 81,559, at least 10 GiB.
        ("h100-sxm-80gb", {}, 8192, 256, 0.83),
        ("h100-sxm-80gb", {"tp": 4}, 8192, 512, 0.818),
        ("h100-sxm-80gb", {"tp": 2, "engine_version": "0.4"}, 8192, 160, 0.868),
    ],
)
def test_fraction_by_device(gpu: str, said: dict[str, Any], chunk: int, graphs: int, fraction: float) -> None:
    w = serve("llama-3.1-8b", engine="sglang", gpu=gpu, **said).workload
    assert (w["chunked_prefill_size"], w["cuda_graph_max_bs"]) == (chunk, graphs)
    assert w["mem_fraction_static"] == pytest.approx(fraction, abs=0.002)


def test_weights_of_llama_print_as_the_log_does() -> None:
    # "mem usage=15.02 GB": angles stay in fp32 on CUDA, 131,072 x 128 x 4 B.
    found = serve("llama-3.1-8b", **H100)
    weights = sum(c.bytes for c in found.components if c.name == "weights")
    assert f"{weights / GIB:.2f}" == "15.02"


def test_log_of_a_pool() -> None:
    found = serve("llama-3.1-8b", **H100, context=16000, mem_fraction_static=0.8)
    log, tokens = found.capacity["log"], found.capacity["tokens"]
    size = (tokens + 1) * 65_536 / GIB
    assert (
        f"KV Cache is allocated. dtype: torch.bfloat16, #tokens: {tokens}, K size: {size:.2f} GB, V size: {size:.2f} GB"
        in log
    )
    assert f"max_total_num_tokens={tokens}" in log[-1]


def test_latents_are_printed_as_one_size_and_are_on_every_rank() -> None:
    found = serve("deepseek-v3", engine="sglang", gpu="h200", tp=8, quant="fp8-block", context=16000)
    assert found.capacity["kv_bytes_per_token"] == 61 * 576 * 2
    assert any("KV size:" in line for line in found.capacity["log"])


def test_models_without_a_window_pool_keep_every_token_and_say_so() -> None:
    found = serve("gemma-2-9b", engine="sglang", context=8192)
    assert found.capacity["kv_bytes_per_token"] == 42 * 8 * 512 * 2
    on_device = serve("gemma-2-9b", **H100, context=8192)
    assert any("keeps every token of this model's windowed layers" in c for c in on_device.caveats)
    assert serve("gpt-oss-20b", engine="sglang", context=8192).capacity["kv_bytes_per_token"] == 12 * 8 * 128 * 2


def test_largest_context_and_concurrency_are_those_that_the_pool_just_holds() -> None:
    found = serve("llama-3.1-8b", **H100, context=16000, concurrency=10)
    tokens = found.capacity["tokens"]
    assert found.capacity["max_concurrency"] == tokens // 16000
    assert found.capacity["max_context"] == tokens // 10


def test_what_others_hold_comes_off_the_pool() -> None:
    free = serve("llama-3.1-8b", **H100, mem_fraction_static=0.8).capacity["tokens"]
    less = serve("llama-3.1-8b", **H100, mem_fraction_static=0.8, in_use="10GiB").capacity["tokens"]
    assert free - less == pytest.approx(0.8 * 10 * GIB / 131_072, abs=2)


@pytest.mark.parametrize(
    ("model", "said", "words"),
    [
        ("qwen3-32b", {"context": 65536}, "greater than the 40,960 positions"),
        ("llama-3.1-8b", {"tp": 3}, "does not divide"),
        ("llama-3.1-8b", {"kv_dtype": "int8_per_token_head"}, "no such cache"),
        ("llama-3.1-8b", {"gpu_memory_utilization": 0.9}, "no such setting"),
        ("mixtral-8x7b", {"tp": 4, "ep": 2}, "over the tp = 4 ranks"),
    ],
)
def test_refused(model: str, said: dict[str, Any], words: str) -> None:
    with pytest.raises(tn.TonnageError, match=words):
        serve(model, **{**H100, **said})


def test_no_room_for_a_pool_does_not_fit() -> None:
    found = serve("llama-3.3-70b", **H100, context=8192)
    assert found.fit.verdict == "does not fit"
    assert any("leave no memory under mem_fraction_static" in c for c in found.caveats)


@pytest.mark.parametrize(("tokens", "printed"), [(975_424, "43.67"), (1_462_784, "65.49")])
def test_sparse_attention_keeps_the_indexers_keys_beside_its_latents(tokens: int, printed: str) -> None:
    # https://github.com/sgl-project/sglang/pull/11309: DeepSeek-V3.2 on eight B200, a cache in FP8; a page of 64 pads.
    sparse = {
        "config": {
            "model_type": "deepseek_v32", "hidden_size": 7168, "intermediate_size": 18432,
            "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 128,
            "num_key_value_heads": 128, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
            "first_k_dense_replace": 3, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280, "max_position_embeddings": 163840,
            "n_group": 8, "topk_group": 4, "index_head_dim": 128, "index_n_heads": 64, "index_topk": 2048,
        },
        "name": "deepseek-v3.2",
    }  # fmt: skip
    found = tn.serve(sparse, engine="sglang", gpu="b200", tp=8, context=8192, kv_dtype="fp8_e4m3", suggest=False)
    token = found.capacity["kv_bytes_per_token"]
    assert token == 61 * (656 + 132)
    assert f"{(tokens + 64) * token / 2**30:.2f}" == printed


@pytest.mark.parametrize(
    ("release", "factor"),
    [
        # model_runner.py of 0.4.4; server_args.py of 0.4.9; adjust_mem_fraction_for_vlm of 0.5 with 24 layers of 1,280,
        # as Qwen2.5-VL calls its layers otherwise.
        ("0.4.4", 0.95),
        ("0.4.9", 0.9),
        ("0.5.5", 0.95 * (1 - 0.1 * (1280**2 / 1024**2 - 1))),
        ("0.5.23", 0.95 * (1 - 0.1 * (1280**2 / 1024**2 - 1))),
    ],
)
def test_encoders_lower_the_static_fraction(release: str, factor: float) -> None:
    said = {"engine": "sglang", "gpu": "h100-sxm-80gb", "context": 8192, "engine_version": release, "suggest": False}
    seen = tn.serve("qwen2.5-vl-7b", **said).workload["mem_fraction_static"]
    text = tn.serve("qwen2.5-vl-7b", **said, language_model_only=True).workload["mem_fraction_static"]
    # Prompts of models with encoders have no graphs: 128 + 512 + 8,192 x 1.5 + 512 MiB of 81,559; others from 0.5.9 on.
    whole = 0.835 if release == "0.5.23" else text
    assert text == {"0.5.5": 0.835, "0.5.23": 0.83}.get(release, text)
    assert seen == pytest.approx(whole * factor, rel=1e-9)


def test_a_fraction_that_is_said_stays_but_in_the_oldest_releases() -> None:
    said = {"engine": "sglang", "gpu": "h100-sxm-80gb", "context": 8192, "mem_fraction_static": 0.8, "suggest": False}
    found = [
        tn.serve("qwen2.5-vl-7b", **said, engine_version=v).workload["mem_fraction_static"] for v in ("0.4.4", "0.5.12")
    ]  # fmt: skip
    assert found == pytest.approx([0.76, 0.8])


def test_gemma_3_reads_text_alone_unless_told() -> None:
    config = {
        "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
                        "num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
                        "sliding_window": 1024, "vocab_size": 262208, "max_position_embeddings": 131072},
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152, "image_size": 896, "patch_size": 14,
                          "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27},
    }  # fmt: skip
    said = {"engine": "sglang", "gpu": "h100-sxm-80gb", "context": 8192, "dtype": "bf16", "suggest": False}
    found = [
        tn.serve({"config": config, "name": "it"}, **said, **more).workload["mem_fraction_static"]
        for more in ({}, {"enable_multimodal": True})
    ]
    ratio = 27 * 1152**2 / (24 * 1024**2)
    assert found == pytest.approx([0.83, 0.835 * 0.95 * (1 - 0.1 * (ratio - 1))])


def test_flags_of_encoders_are_read() -> None:
    from tonnage.launch import read

    found = read("python -m sglang.launch_server --model-path org/name --language-only --enable-multimodal")
    assert (found.said["language_model_only"], found.said["enable_multimodal"]) == (True, True)
    assert not found.unmodelled


def test_the_fraction_of_a_build_of_2026_02() -> None:
    # server_args of the notebooks of SGLang's documentation, 2026-02-07, on an H100: mem_fraction_static=0.835.
    found = tn.serve(
        "qwen2.5-0.5b", engine="sglang", engine_version="0.5.8", gpu="h100-sxm-80gb", context=8192, suggest=False
    )
    assert found.workload["mem_fraction_static"] == 0.835
