"""What is written is read as the same workload."""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn
from tonnage.errors import InputError
from tonnage.launch import read, write

CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("vllm", "llama-3.1-8b", {"gpu": "h100-sxm-80gb", "tp": 2, "kv_dtype": "fp8", "max_num_seqs": 128}),
    ("vllm", "llama-3.1-8b", {"gpu": "l4", "kv_cache_memory": "2GiB", "max_loras": 2, "max_lora_rank": 32}),
    ("vllm", "llama-3.1-8b", {"gpu": "l4", "quant": "fp8", "block_size": 32}),
    ("vllm", "qwen3-30b-a3b", {"gpu": "h200", "tp": 2, "ep": 2, "enforce_eager": True, "prefix_caching": False}),
    ("vllm", "deepseek-v3", {"gpu": "h200", "tp": 8, "speculative_tokens": 1}),
    ("sglang", "qwen3-8b", {"gpu": "l40s", "mem_fraction_static": 0.8, "kv_dtype": "fp8_e5m2", "tp": 2}),
    ("llamacpp", "llama-3.1-8b", {"gpu": "rtx-4090", "quant": "q4_k_m", "concurrency": 3}),
    (
        "llamacpp",
        "llama-3.1-8b",
        {"gpu": "rtx-4090", "quant": "q4_k_m", "parallel": 2, "kv_dtype": "q8_0", "n_gpu_layers": 10, "mmap": False,
         "kv_offload": False, "concurrency": 2},
    ),
    ("llamacpp", "qwen3-30b-a3b", {"gpu": "rtx-4090", "quant": "q4_k_m", "override_tensor": "exps=CPU", "gpus": 2}),
    ("tgi", "llama-3.1-8b", {"gpu": "l40s", "tp": 2, "kv_dtype": "fp8_e4m3"}),
    ("tensorrt-llm", "llama-3.1-8b", {"gpu": "h100-sxm-80gb", "tp": 2, "free_gpu_memory_fraction": 0.8}),
]  # fmt: skip


@pytest.mark.parametrize(("engine", "model", "said"), CASES)
def test_what_is_written_does_what_is_answered(engine: str, model: str, said: dict[str, Any]) -> None:
    first = tn.serve(model, to=engine, context=8192, suggest=False, **said)
    text = first.extras["command"]["text"]
    assert read(text).unmodelled == ()
    # The quantization is the checkpoint's, the devices are the machine's.
    place = {key: said[key] for key in ("gpu", "gpus", "quant") if key in said}
    again = tn.serve(model, command=text, suggest=False, **place)
    assert [r.as_dict() for r in again.ranks] == [r.as_dict() for r in first.ranks]
    assert again.capacity is not None
    assert first.capacity is not None
    assert again.capacity["tokens"] == first.capacity["tokens"]
    assert first.as_dict()["command"]["text"] == text


def test_the_command_names_the_hubs_repository() -> None:
    text = tn.serve("llama-3.1-8b", to="vllm", context=4096).extras["command"]["text"]
    assert text.startswith("vllm serve meta-llama/Llama-3.1-8B --max-model-len 4096 ")


def test_words_that_a_shell_would_read_are_quoted() -> None:
    text, _ = write("vllm", "a b;c", {"engine": "vllm", "speculative_tokens": 2}, {})
    assert text.startswith("vllm serve 'a b;c' --speculative-config '{")
    assert read(text).model == "a b;c"


def test_what_no_flag_says_is_told() -> None:
    found = tn.serve("llama-3.1-8b", to="llamacpp", quant="q4_k_m").extras["command"]
    assert "llamacpp reads a .gguf file: name one, or convert the checkpoint" in found["notes"]
    assert "the checkpoint has to be one that is stored as q4_k_m" in found["notes"]


def test_an_answer_for_one_engine_is_no_command_of_another() -> None:
    with pytest.raises(InputError, match="is no command of vllm"):
        tn.serve("gpt2", to="vllm", engine="sglang")
    with pytest.raises(InputError, match="did you mean"):
        tn.serve("gpt2", to="vlm")
