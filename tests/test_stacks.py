"""What each training stack decides when nothing is said, and its own code."""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn
from tonnage.errors import InputError, UnsupportedError
from tonnage.registry import names, variant
from tonnage.stacks import Stack

SHAPE: dict[str, Any] = {"batch": 1, "seq": 64, "suggest": False, "replay": False}
LORA: dict[str, Any] = {"lora_rank": 8, "lora_targets": ["all-linear"]}
STACKS = names("tonnage.stacks")

FULL = {
    "transformers": ("bf16", "adamw-fused", "none", "full"),
    "trl": ("bf16-mixed", "adamw-fused", "full", "full"),
    "torchtune": ("bf16", "adamw-foreach", "none", "chunked"),
    "torchtitan": ("bf16-mixed", "adamw-fused", "every-2", "full"),
    "litgpt": ("bf16-mixed", "adamw-foreach", "none", "chunked"),
    "axolotl": ("bf16-autocast", "adamw-fused", "none", "full"),
    "llama-factory": ("bf16-mixed", "adamw-fused", "full", "full"),
    "unsloth": ("bf16-autocast", "adamw-fused", "full", "full"),
}
"""Precision, optimizer, recomputation and loss, as each module's reference has them."""

# Formats of what is frozen and of the adapters beside it.
ADAPTED = {
    "transformers": ("bf16", "fp32"), "trl": ("fp32", "fp32"), "torchtune": ("bf16", "bf16"),
    "torchtitan": ("bf16", "fp32"), "litgpt": ("fp32", "fp32"), "axolotl": ("bf16", "fp32"),
    "llama-factory": ("bf16", "fp32"), "unsloth": ("bf16", "fp32"),
}  # fmt: skip


def record(name: str) -> Stack:
    return variant("tonnage.stacks", name, "STACK", Stack)


def test_every_stack_has_its_row() -> None:
    assert {record(name).name for name in STACKS} == set(FULL) == set(ADAPTED)
    assert all("/blob/v" in record(name).reference for name in STACKS)


@pytest.mark.parametrize("stack", FULL)
def test_what_a_stack_does_when_nothing_is_said(stack: str) -> None:
    said = tn.train("llama-3.2-1b", stack=stack, **SHAPE).workload
    assert (said["precision"], said["optimizer"], said["recompute"], said["loss"]) == FULL[stack]


@pytest.mark.parametrize("stack", ADAPTED)
def test_formats_of_frozen_weights_and_adapters(stack: str) -> None:
    result = tn.train("llama-3.2-1b", stack=stack, **SHAPE, **LORA)
    frozen, adapters = ADAPTED[stack]
    assert result.workload["weights_dtype"] == frozen
    (line,) = [c for c in result.components if c.name == "weights" and "trained parameters" in c.why]
    assert adapters in line.why
    assert line.bytes == result.model["trainable_parameters"] * {"fp32": 4, "bf16": 2}[adapters]


@pytest.mark.parametrize(
    ("model", "trained"),
    [("phi-1.5", 1_572_864), ("llama-2-7b", 4_194_304), ("llama-2-13b", 6_553_600)],
)
def test_litgpt_trains_as_many_parameters_as_it_prints(model: str, trained: int) -> None:
    """Lightning-AI/litgpt tutorials/resource-tables.md: LoRA of rank 8 on queries and values."""
    said = {"stack": "litgpt", "precision": "bf16", "lora_rank": 8, "lora_targets": ["query", "value"]}
    assert tn.train(model, **SHAPE, **said).model["trainable_parameters"] == trained


def test_what_litgpt_does_with_a_tied_head() -> None:
    """It builds a head of its own: https://github.com/Lightning-AI/litgpt/blob/v0.5.13/litgpt/model.py."""
    own = 128_256 * 2048
    there = tn.train("llama-3.2-1b", stack="litgpt", precision="bf16", **SHAPE).model["parameters"]
    assert there == tn.load("llama-3.2-1b").parameters.total + own


def test_torchtune_keeps_a_table_of_rotations() -> None:
    """Two numbers in fp32 for every position and pair, 131,072 of them in Llama 3.1, shared by the layers; Llama 2 with
    adapters has one of 4,096 for each of 32 layers (llama2/_component_builders.py, lora_llama2_self_attention)."""
    frequencies = 64 * 4
    for model, tables, said in (
        ("llama-3.1-8b", 131_072 * 128 * 4 + frequencies, LORA),
        ("llama-2-7b", 32 * (4096 * 128 * 4 + frequencies), LORA),
        ("llama-2-7b", 4096 * 128 * 4 + frequencies, {}),
    ):
        result = tn.train(model, stack="torchtune", **SHAPE, **said)
        assert sum(c.bytes for c in result.components if c.name == "other:buffers") == tables


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ({"stack": "torchtune", "loss": "liger"}, "loss"),
        ({"stack": "litgpt", "kernels": "liger"}, "kernels"),
        ({"stack": "torchtune", "recompute": "selective"}, "recompute"),
        ({"stack": "litgpt", "recompute": "every-2"}, "recompute"),
        ({"stack": "torchtune", "stack_version": "0.1"}, "stack_version"),
        ({"stack": "megatron"}, "stack"),
        ({"stack": "torchtune", "model": "bert-base-uncased"}, "stack"),
    ],
)
def test_what_a_stack_lacks_is_refused(said: dict[str, Any], key: str) -> None:
    model = said.get("model", "llama-3.2-1b")
    with pytest.raises(UnsupportedError) as e:
        tn.train(model, **SHAPE, **{k: v for k, v in said.items() if k != "model"})
    assert e.value.key == key


@pytest.mark.parametrize(
    ("said", "key"), [({"stack": "torchtoon"}, "stack"), ({"stack": "trl", "stack_version": "x"}, "stack_version")]
)
def test_what_is_no_stack_is_an_error(said: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as e:
        tn.train("llama-3.2-1b", **SHAPE, **said)
    assert e.value.key == key


def test_what_is_left_out_forbids_a_sure_verdict() -> None:
    for stack, verdict in (("axolotl", "fits"), ("unsloth", "uncertain")):
        result = tn.train("llama-3.2-1b", stack=stack, gpu="80GiB", **SHAPE, **LORA)
        assert result.fit is not None
        assert result.fit.verdict == verdict


@pytest.mark.parametrize(("model", "told"), [("llama-3.2-1b", False), ("gemma-2-2b", True), ("olmoe-1b-7b", True)])
def test_a_model_whose_code_is_not_stated_is_told(model: str, told: bool) -> None:
    """Capped scores and experts: torchtune and litgpt write these in ways of their own."""
    for stack in ("torchtune", "litgpt"):
        caveats = tn.train(model, stack=stack, precision="bf16", **SHAPE).caveats
        assert any("own code" in line for line in caveats) == told


def test_heads_that_are_repeated_first_need_no_unfused_kernel() -> None:
    """On a T4 torch's memory-efficient kernel takes no grouped heads; torchtune and litgpt hand it none."""
    for stack, kernel in (("transformers", "math"), ("torchtune", "efficient"), ("litgpt", "efficient")):
        result = tn.train("llama-3.2-1b", stack=stack, precision="fp32", gpu="t4", **SHAPE)
        assert result.extras["attention_kernel"] == kernel


@pytest.mark.parametrize(("model", "stack"), [("gpt2", "litgpt"), ("qwen3-vl-8b", "torchtune")])
def test_a_stack_answers_models_that_are_not_its_own(model: str, stack: str) -> None:
    """Adapters of a part without rows take nothing; tables of angles in a grid stay as they are."""
    found = tn.train(
        model, stack=stack, lora_rank=8, lora_targets=["all-linear"], seq=64, suggest=False, replay=model == "gpt2"
    )
    assert found.peak.bytes > 0
