"""Qwen of 2023, by the code that its files bring along: figures of its README, and what they are made of.

https://github.com/QwenLM/Qwen: the script that the README names prints ``torch.cuda.max_memory_allocated()`` over 2^30.
"""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn
from tonnage.units import GiB

WIDE = {"7b": (4096, 32, 22016, 151936), "14b": (5120, 40, 27392, 152064), "72b": (8192, 80, 49152, 152064)}


def model(size: str) -> Any:
    D, L, F, V = WIDE[size]
    return tn.load(
        {
            "config": {
                "model_type": "qwen", "hidden_size": D, "num_hidden_layers": L, "num_attention_heads": D // 128,
                "intermediate_size": F, "vocab_size": V, "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
            }
        }
    )  # fmt: skip


def serve(size: str, context: int, prompt: int) -> Any:
    asked = {"context": context, "prompt": prompt, "attention": "flash", "logits": "all", "suggest": False}
    return tn.serve(model(size), **asked).fullest


@pytest.mark.parametrize(
    ("size", "context", "prompt", "printed"),
    [("7b", 2048, 2048, 16.99), ("14b", 2048, 2048, 30.15), ("14b", 8193, 1, 38.94), ("72b", 2049, 1, 144.69)],
)
def test_peaks_are_those_printed(size: str, context: int, prompt: int, printed: float) -> None:
    assert serve(size, context, prompt).tier("allocated") / GiB == pytest.approx(printed, rel=2e-3)


def test_a_prompt_keeps_queries_with_the_values_that_are_a_view_of_the_same_product() -> None:
    D, L, _, _ = WIDE["7b"]
    cache = sum(c.bytes for c in serve("7b", 2048, 2048).components if c.name == "kv_cache")
    assert cache == L * 2048 * (3 * D + D) * 2


def test_a_step_holds_the_last_pass_beside_its_own() -> None:
    D, L, _, _ = WIDE["7b"]
    cache = sum(c.bytes for c in serve("7b", 513, 1).components if c.name == "kv_cache")
    assert cache == L * 2 * D * 2 * (512 + 513)


def test_adapters_stand_beside_one_matrix_of_queries_keys_and_values() -> None:
    """143,130,624 parameters train with peft 0.5.0, of rank 64 beside every matrix."""
    adapted = {"lora_rank": 64, "lora_targets": ["c_attn", "c_proj", "w1", "w2"], "suggest": False}
    found = tn.train(model("7b"), seq=256, recompute="full", **adapted).fullest
    assert any("143,130,624 trained parameters" in c.why for c in found.components)
