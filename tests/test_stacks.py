"""What each training stack decides when nothing is said, and its own code."""

from __future__ import annotations

import re
from typing import Any

import pytest

import tonnage as tn
from tonnage.errors import InputError, UnsupportedError
from tonnage.registry import names, variant
from tonnage.stacks import Stack

SHAPE: dict[str, Any] = {"batch": 1, "seq": 64, "suggest": False, "replay": False}
LORA: dict[str, Any] = {"lora_rank": 8, "lora_targets": ["all-linear"]}
TWO: dict[str, Any] = {"lora_rank": 8, "lora_targets": ["q_proj", "v_proj"]}
STACKS = names("tonnage.stacks")

FULL = {
    "transformers": ("bf16", "adamw-fused", "none", "full"),
    "trl": ("bf16-mixed", "adamw-fused", "full", "trl"),
    "torchtune": ("bf16", "adamw-foreach", "none", "chunked"),
    "torchtitan": ("bf16-mixed", "adamw-fused", "every-2", "full"),
    "litgpt": ("bf16-mixed", "adamw-foreach", "none", "chunked"),
    "axolotl": ("bf16-autocast", "adamw-fused", "none", "full"),
    "llama-factory": ("bf16-mixed", "adamw-fused", "full", "full"),
    "unsloth": ("bf16-autocast", "adamw-8bit", "unsloth", "unsloth"),
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
    assert all(re.search("/blob/v|pypi.org/project/[a-z]+/20", record(name).reference) for name in STACKS)


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


@pytest.mark.parametrize(("capacity", "tokens"), [(8, 2_972), (16, 40_724), (24, 78_475), (48, 191_728), (80, 342_733)])
def test_unsloth_reaches_the_lengths_that_it_publishes(capacity: int, tokens: int) -> None:
    """https://docs.unsloth.ai/basics/unsloth-benchmarks: QLoRA of Llama 3.1 8B, rank 32, one sequence. The table is a
    straight line between measured lengths, so that it bounds an answer and no more."""
    said: dict[str, Any] = {"lora_rank": 32, "lora_targets": ["all-linear"], "quant": "nf4-dq", "stack": "unsloth"}
    found = tn.train("llama-3.1-8b", batch=1, seq=tokens, suggest=False, replay=False, **said).fullest
    assert 0.75 * capacity * 2**30 < found.tier("reserved") < capacity * 2**30


def test_unsloth_keeps_what_its_code_keeps() -> None:
    """By hand: the largest matrix of Llama 3.1 8B in 16 bit, and two buffers of a layer's input."""
    said: dict[str, Any] = {"lora_rank": 8, "lora_targets": ["all-linear"], "suggest": False, "replay": False}
    packed = tn.train("llama-3.1-8b", stack="unsloth", quant="nf4", seq=2048, batch=2, **said)
    kept = {c.why: c.bytes for c in packed.components if c.name == "other:buffers"}
    assert kept["what every packed matrix is unpacked into"] == 14_336 * 4096 * 2
    stream = 2 * 2048 * 4096 * 2
    assert [kept[f"buffer {n}, which layers' inputs come back to"] for n in "AB"] == [stream, stream]
    dropped = tn.train("llama-3.1-8b", stack="unsloth", quant="nf4", lora_dropout=0.1, seq=2048, batch=2, **said)
    assert not any("unpacked into" in c.why for c in dropped.components)
    small = tn.train("llama-3.1-8b", stack="unsloth", seq=256, batch=1, **said)
    assert not any("come back to" in c.why for c in small.components)


@pytest.mark.parametrize(
    ("model", "said", "told"),
    [
        ("llama-3.2-1b", LORA, False),
        ("qwen3-8b", LORA, False),
        ("gemma-2-2b", LORA, True),
        ("llama-3.2-1b", {}, True),
        ("olmoe-1b-7b", {"lora_rank": 8, "lora_targets": ["attention"]}, True),
    ],
)
def test_what_unsloth_compiles_is_told(model: str, said: dict[str, Any], told: bool) -> None:
    """Other types than those of its own code, and full fine-tuning."""
    caveats = tn.train(model, stack="unsloth", **SHAPE, **said).caveats
    assert any("compiles transformers' modules" in line for line in caveats) == told


def test_a_biased_matrix_is_left_to_peft() -> None:
    """Qwen 2's queries, keys and values have biases: their products keep what peft's do, and no more is different."""
    said: dict[str, Any] = {"lora_rank": 8, "lora_targets": ["all-linear"], "stack": "unsloth", "recompute": "none"}
    peak = {m: tn.train(m, **SHAPE, **said).fullest for m in ("qwen2.5-7b", "qwen3-8b")}
    labels = {m: {t[0] for c in f.components for t in c.terms} for m, f in peak.items()}
    assert any("q_proj.lora_A" in label for label in labels["qwen2.5-7b"])
    assert not any("q_proj.lora_A.weight output" in label for label in labels["qwen3-8b"])


@pytest.mark.parametrize(
    ("version", "loss"),
    [("0.29", "full"), ("1.6", "full"), ("1.7", "trl-chunks"), ("1.14", "trl-chunks"), ("1.15", "trl")],
)
def test_the_loss_of_a_release_of_trl(version: str, loss: str) -> None:
    """``loss_type`` of trl/trainer/sft_config.py at each tag; ``add_fused_lm_head`` of sft_trainer.py since 1.15."""
    assert tn.train("llama-3.2-1b", stack="trl", stack_version=version, **SHAPE).workload["loss"] == loss
    liger = tn.train("llama-3.2-1b", stack="trl", stack_version=version, kernels="liger", **SHAPE)
    assert liger.workload["loss"] == "fused"


def test_objectives_of_older_trl_are_told() -> None:
    said: dict[str, Any] = {"stack": "trl", "objective": "dpo", **SHAPE}
    for version in ("1.16", "1.8", "1.0"):
        found = tn.train("llama-3.2-1b", **said, stack_version=version)
        assert not any("before 1.0" in c for c in found.caveats)
        assert any("makes all logits" in c for c in found.caveats) == (version != "1.16")
    old = tn.train("llama-3.2-1b", **said, stack_version="0.29", gpu="80GiB")
    assert any("before 1.0" in c for c in old.caveats)
    assert old.fit is not None
    assert old.fit.verdict == "uncertain"


@pytest.mark.parametrize(("version", "of_trl"), [("0.19", "1.9"), ("0.18", "1.8"), ("0.17", "1.5")])
def test_axolotl_runs_the_trainers_of_the_trl_that_it_pins(version: str, of_trl: str) -> None:
    """``Requires-Dist`` of its wheels on PyPI. Before 1.6 the logits of all tokens but the last were copied."""
    said: dict[str, Any] = {"objective": "dpo", "precision": "bf16", "recompute": "none", **SHAPE}
    found = tn.train("llama-3.2-1b", stack="axolotl", stack_version=version, **said)
    same = tn.train("llama-3.2-1b", stack="trl", stack_version=of_trl, **said)
    assert [(i.name, i.bytes) for i in found.fullest.instants] == [(i.name, i.bytes) for i in same.fullest.instants]
    assert any(f"as TRL {of_trl} does it" in c for c in found.caveats)
    assert found.workload["loss"] == "full"


def test_judgements_of_a_trainer_that_was_an_experiment_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"TRL 1\.5"):
        tn.train("llama-3.2-1b", stack="axolotl", stack_version="0.17", objective="kto", **{**SHAPE, "batch": 2})


def test_a_head_that_trl_s_loss_is_not_modelled_for_is_told() -> None:
    """Phi's head has a bias, which the tiles are not modelled with; the chunks are."""
    found = tn.train("phi-2", stack="trl", **SHAPE)
    assert any("all logits are answered" in c for c in found.caveats)
    assert tn.train("phi-2", stack="trl", stack_version="1.9", **SHAPE).workload["loss"] == "trl-chunks"


def test_adapters_of_a_head_that_the_loss_takes_by_itself_are_refused() -> None:
    for stack in ("trl", "unsloth"):
        with pytest.raises(UnsupportedError) as e:
            tn.train("llama-3.1-8b", stack=stack, lora_rank=8, lora_targets=["q_proj", "lm_head"], **SHAPE)
        assert e.value.key == "lora_targets"


def test_llama_factory_s_own_preference_trainers() -> None:
    """By hand, of Llama 3.2 1B and one pair of 1,024 tokens: while the reference runs, the policy's logits and their
    log-softmax are there in fp32, and as much again for the reference, of which the kernel copies the rows first."""
    logits = 2 * 1024 * 128_256 * 4
    said: dict[str, Any] = {
        "stack": "llama-factory",
        "batch": 1,
        "seq": 1024,
        "suggest": False,
        "replay": False,
        **LORA,
    }
    found = tn.train("llama-3.2-1b", objective="dpo", **said)
    assert found.fullest.peak.name == "reference forward"
    kept = sum(c.bytes for c in found.components if c.name in ("logits", "loss") and c.tier == "requested")
    assert 4 * logits * 1023 / 1024 < kept < 4 * logits * 1.001
    scratch = [c.bytes for c in found.components if c.name == "workspace" and "reference forward" in c.why]
    assert scratch == [logits * 1023 // 1024]
    alone = tn.train("llama-3.2-1b", objective="simpo", **said)
    assert alone.workload["reference"] == "none"
    assert alone.fullest.tier("requested") < found.fullest.tier("requested") - logits


def test_llama_factory_s_judgements_run_over_two_batches() -> None:
    """By hand, of Llama 3.2 1B, 2 answers of 1,024 tokens: while the reference runs over the other batch, the policy's
    log-softmax and copies of its logits are there, the reference's logits of the batch, and of the other both."""
    logits = 2 * 1024 * 128_256 * 4
    said: dict[str, Any] = {"batch": 2, "seq": 1024, "suggest": False, "replay": False, **LORA}
    found = tn.train("llama-3.2-1b", stack="llama-factory", objective="kto", **said)
    assert found.fullest.peak.name == "reference, other answers forward"
    kept = sum(c.bytes for c in found.components if c.name in ("logits", "loss") and c.tier == "requested")
    assert 5 * logits * 1023 / 1024 < kept < 5 * logits * 1.001


@pytest.mark.parametrize(("batch", "more", "traced"), [(2, TWO, 228_858_216), (3, {}, 556_240_008)])
def test_llama_factory_s_judgements_are_what_its_trainer_takes(batch: int, more: dict[str, Any], traced: int) -> None:
    """Most that was alive in two steps of its functions, by scripts/trace_llama_factory.py: v0.9.5 on torch 2.13.0 and
    transformers 5.23.0. A kernel's copy, which a trace sees nothing of, puts the peak a few numbers a token earlier."""
    config = {
        "model_type": "llama", "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 8000, "max_position_embeddings": 4096,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    said: dict[str, Any] = {"stack": "llama-factory", "objective": "kto", "batch": batch, "seq": 512, **more}
    found = tn.train(
        {"config": config}, optimizer="adamw-loop", recompute="none", suggest=False, replay=False, **said
    ).fullest
    assert 0 <= traced - found.tier("requested") - batch * 511 * 4 < 128


def test_llama_factory_s_reference_is_of_16_bit() -> None:
    """The policy is trained in fp32; a reference of its own is loaded in bf16."""
    said: dict[str, Any] = {"stack": "llama-factory", "objective": "dpo", "batch": 1, "seq": 256, "suggest": False}
    found = tn.train("llama-3.2-1b", replay=False, **said)
    (line,) = [c for c in found.components if c.name == "weights" and c.why.startswith("reference")]
    assert line.bytes == 2 * found.model["parameters"]


@pytest.mark.parametrize(
    "said",
    [
        {"stack": "llama-factory", "objective": "grpo", "batch": 8},
        {"stack": "unsloth", "objective": "dpo"},
        {"stack": "litgpt", "objective": "dpo"},
    ],
)
def test_trainers_of_stacks_that_are_not_stated_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError) as e:
        tn.train("llama-3.2-1b", seq=64, suggest=False, **{"batch": 1, **said})
    assert e.value.key == "stack"


def test_llama_factory_precomputes_no_reference() -> None:
    with pytest.raises(InputError) as e:
        tn.train("llama-3.2-1b", stack="llama-factory", objective="dpo", reference="precomputed", **SHAPE)
    assert e.value.key == "reference"


def test_what_a_loss_over_all_logits_takes_in_its_backward_pass() -> None:
    """The log-softmax, the gradient put into zeros, that of the logits and, cast, that of the head's output: traced of
    LLaMA-Factory v0.9.5's trainer with scripts/trace_llama_factory.py, 163,153,720 B of tensors at their most."""
    config = {
        "model_type": "llama", "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 8000, "max_position_embeddings": 4096,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    found = tn.train(
        {"config": config}, stack="llama-factory", objective="simpo", batch=1, seq=512, optimizer="adamw-loop",
        recompute="none", lora_rank=8, lora_targets=["q_proj", "v_proj"], suggest=False, replay=False,
    ).fullest  # fmt: skip
    (backward,) = [i.bytes for i in found.instants if i.name == "loss backward"]
    workspaces = 2 * 8_519_680
    assert 0 <= backward - workspaces - 163_153_720 < 512 * 200


def test_inputs_that_unsloth_puts_on_the_host_are_none_of_the_cache() -> None:
    """By hand: two buffers of a layer's input stay; what lies on the host counts there alone."""
    said: dict[str, Any] = {"stack": "unsloth", "quant": "nf4", **LORA, "batch": 1, "seq": 4096, "suggest": False}
    plain, played = (tn.train("llama-3.1-8b", replay=r, **said).fullest for r in (False, True))
    assert played.tier("requested") == plain.tier("requested")
    assert 0 <= played.tier("allocated") - plain.tier("allocated") < 2**27
    assert {c.name: c.trust for c in played.components}["fragmentation"] == "derived"
    buffers = [c.bytes for c in played.components if c.name == "other:buffers" and "come back to" in c.why]
    assert buffers == [2 * 4096 * 4096] * 2


WHOLE: list[tuple[str, str, dict[str, Any], bool]] = [
    ("transformers", "4.57", {}, True),
    ("transformers", "5.0", {}, False),
    ("transformers", "5.0", {"recompute": "reentrant"}, True),
    ("transformers", "4.57", {"recompute": "non-reentrant"}, False),
    ("transformers", "4.57", {"objective": "dpo", "reference": "precomputed"}, False),
    ("transformers", "4.57", {"freeze_layers": "0-3"}, False),
    ("trl", "0.27", {}, True),
    ("trl", "0.28", {}, False),
    ("axolotl", "0.19", {}, True),
    ("axolotl", "0.19", {"objective": "dpo", "reference": "precomputed"}, False),
    ("llama-factory", "0.9", {}, True),
    ("torchtune", "0.6", {}, False),
]


@pytest.mark.parametrize(("stack", "version", "said", "nested"), WHOLE, ids=str)
def test_checkpoints_are_those_of_the_release(stack: str, version: str, said: dict[str, Any], nested: bool) -> None:
    """A nested backward pass holds the layer's output beside its gradient."""
    both = {"recompute": "full", "seq": 512, "precision": "bf16", "dtype": "bf16", "suggest": False, **said}
    found = tn.train("llama-3.2-1b", stack=stack, stack_version=version, replay=False, **both)
    assert any("use_reentrant" in c for c in found.caveats) == nested
    other = tn.train("llama-3.2-1b", replay=False, stack=stack, stack_version=version,
                     **(both | {"recompute": "non-reentrant" if nested else "reentrant"}))  # fmt: skip
    lower, higher = (other, found) if nested else (found, other)
    step = [{i.name: i.bytes for i in r.fullest.instants} for r in (lower, higher)]
    # In fp32 under autocast the last product, which runs again as well, may lie higher.
    assert step[1]["backward layer 0"] > step[0]["backward layer 0"]


def test_copies_of_heads_are_a_range() -> None:
    """By hand: keys, values and their gradients of one layer of Llama 3.1 8B for 24 more heads of 128."""
    said: dict[str, Any] = {"stack": "unsloth", **LORA, "batch": 1, "seq": 4096, "suggest": False, "replay": False}
    found = tn.train("llama-3.1-8b", **said)
    (line,) = [c for c in found.components if c.name == "other:attention"]
    assert (line.low_bytes, line.bytes, line.high_bytes) == (0, 0, 4 * 4096 * 24 * 128 * 2)
    assert line.trust == "assumed"
    alike = tn.train("llama-2-7b", **{**said, "seq": 1024})
    assert not any(c.name == "other:attention" for c in alike.components)


def test_modules_that_unsloth_puts_on_the_host_are_told() -> None:
    found = tn.train("llama-3.1-8b", stack="unsloth", modules_to_save=["lm_head"], **SHAPE, **LORA)
    assert any("modules_to_save" in c for c in found.caveats)


@pytest.mark.parametrize(("stack", "trained"), [("transformers", 3_407_872), ("llama-factory", 20_971_520)])
def test_a_stack_adapts_what_it_says(stack: str, trained: int) -> None:
    """By hand, Llama 3.1 8B at rank 8: peft's queries and values, or every matrix of 32 layers."""
    assert 32 * 8 * (4096 + 4096 + 4096 + 1024) == 3_407_872
    ends = ((4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), (4096, 14336), (4096, 14336), (14336, 4096))
    assert 32 * 8 * sum(a + b for a, b in ends) == 20_971_520
    said = tn.train("llama-3.1-8b", stack=stack, lora_rank=8, seq=64, suggest=False).model
    assert said["trainable_parameters"] == trained


@pytest.mark.parametrize(
    ("version", "adapters", "norms"),
    [("0.29", "bf16", "bf16"), ("0.27", "bf16", "bf16"), ("0.26", "fp32", "fp32"), ("0.20", "fp32", "fp32")],
)
def test_packed_models_of_a_release_of_trl(version: str, adapters: str, norms: str) -> None:
    """``prepare_peft_model`` up to 0.26.2; ``param.data.to(torch.bfloat16)`` of sft_trainer.py from 0.27.2 on."""
    found = tn.train("llama-3.1-8b", stack="trl", stack_version=version, quant="nf4", lora_rank=8, **SHAPE)
    weights = [c.why for c in found.fullest.components if c.name == "weights"]
    assert any(f"trained parameters x {4 if adapters == 'fp32' else 2} B ({adapters})" in why for why in weights)
    assert any("kept: 266,240 x fp32, 65 tensors" in why for why in weights) == (norms == "fp32")


def test_bytes_and_fp16_of_older_trl_are_prepared_whole() -> None:
    """peft's ``prepare_model_for_kbit_training`` casts all that is not packed, and no more than norms come back."""
    said: dict[str, Any] = {"stack": "trl", "stack_version": "0.24", "quant": "nf4", "lora_rank": 8, **SHAPE}
    found = tn.train("llama-3.1-8b", **said, precision="fp16-autocast")
    assert found.workload["kbit_prepared"] is True
    own = tn.train("llama-3.1-8b", **said, precision="bf16-autocast", kbit_prepared=False)
    assert not any("kept: 266,240 x fp32" in c.why for c in own.fullest.components)


def test_checkpoints_of_encoders_and_decoders_are_those_of_today() -> None:
    said = {"seq": 64, "target_seq": 32, "recompute": "full", "suggest": False}
    today, before = (tn.train("t5-small", stack_version=v, **said) for v in ("5.23", "4.57"))
    assert before.ranks[0].tier("allocated") == today.ranks[0].tier("allocated")
    assert "answered as those of 5.23" in "".join(before.extras["incomplete"])
    assert today.extras["incomplete"] == []
