"""Configs and commands of training stacks become workloads, as the stacks' own code reads them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage.cli import main
from tonnage.errors import InputError, SourceError, TonnageError, UnsupportedError
from tonnage.launch.training import configs, read
from tonnage.launch.training._reading import told

pytest.importorskip("yaml")

# A few keys of what the stacks publish: file, its keys, model, keys of the workload.
PUBLISHED: dict[str, tuple[str, str, str, str | None, dict[str, Any]]] = {
    # pytorch/torchtune v0.6.1 recipes/configs/llama3_1/8B_qlora_single_device.yaml
    "torchtune qlora": (
        "torchtune",
        "a.yaml",
        """
output_dir: /tmp/out
model:
  _component_: torchtune.models.llama3_1.qlora_llama3_1_8b
  lora_attn_modules: ['q_proj', 'v_proj', 'output_proj']
  apply_lora_to_mlp: True
  apply_lora_to_output: False
  lora_rank: 8
  lora_alpha: 16
  lora_dropout: 0.0
tokenizer: {_component_: torchtune.models.llama3.llama3_tokenizer, max_seq_len: null}
checkpointer: {_component_: torchtune.training.FullModelHFCheckpointer, output_dir: "${output_dir}"}
dataset: {_component_: torchtune.datasets.alpaca_cleaned_dataset, packed: False}
batch_size: 2
optimizer: {_component_: torch.optim.AdamW, fused: True, lr: 3e-4}
loss: {_component_: torchtune.modules.loss.CEWithChunkedOutputLoss}
gradient_accumulation_steps: 8
compile: False
dtype: bf16
enable_activation_checkpointing: True
enable_activation_offloading: False
""",
        "llama-3.1-8b",
        {"quant": "nf4-dq", "lora_rank": 8, "lora_targets": ("q_proj", "v_proj", "output_proj", "mlp"), "batch": 2,
         "accumulate": 8, "optimizer": "adamw-fused", "loss": "chunked", "recompute": "full", "precision": "bf16"},
    ),
    # pytorch/torchtune v0.6.1 recipes/configs/llama3_2/3B_full_single_device.yaml
    "torchtune full": (
        "torchtune",
        "a.yml",
        """
model: {_component_: torchtune.models.llama3_2.llama3_2_3b}
checkpointer: {_component_: torchtune.training.FullModelHFCheckpointer}
batch_size: 4
optimizer: {_component_: bitsandbytes.optim.PagedAdamW8bit, lr: 2e-5}
optimizer_in_bwd: True
gradient_accumulation_steps: 1
enable_activation_checkpointing: True
dtype: bf16
""",
        "llama-3.2-3b",
        {"optimizer": "paged-adamw-8bit", "optimizer_in_backward": True, "batch": 4, "recompute": "full"},
    ),
    # pytorch/torchtitan v0.2.2 torchtitan/models/llama3/train_configs/llama3_8b.toml
    "torchtitan": (
        "torchtitan",
        "a.toml",
        """
[job]
dump_folder = "./outputs"
[model]
name = "llama3"
flavor = "8B"
[optimizer]
name = "AdamW"
lr = 3e-4
[training]
local_batch_size = 1
seq_len = 8192
max_norm = 1.0
dataset = "c4"
[parallelism]
data_parallel_shard_degree = -1
tensor_parallel_degree = 1
[compile]
enable = false
components = ["model", "loss"]
[activation_checkpoint]
mode = "selective"
selective_ac_option = "op"
""",
        "llama-3-8b",
        {"batch": 1, "seq": 8192, "optimizer": "adamw-fused", "precision": "bf16-mixed", "recompute": "selective"},
    ),
    # Lightning-AI/litgpt v0.5.13 config_hub/finetune/llama-3.1-8b/lora.yaml
    "litgpt": (
        "litgpt",
        "a.yaml",
        """
checkpoint_dir: checkpoints/meta-llama/Meta-Llama-3.1-8B
precision: bf16-true
quantize:
devices: 1
lora_r: 32
lora_query: true
lora_key: false
lora_value: true
lora_dropout: 0.05
data: {class_path: litgpt.data.Alpaca2k, init_args: {mask_prompt: false}}
train: {global_batch_size: 8, micro_batch_size: 1, max_seq_length: 512, epochs: 2, max_norm: }
optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.0002, betas: [0.9, 0.95]}}
""",
        "meta-llama/Meta-Llama-3.1-8B",
        {"precision": "bf16", "lora_rank": 32, "lora_targets": ("query", "value"), "batch": 1, "accumulate": 8,
         "seq": 512, "optimizer": "adamw-foreach"},
    ),
    # axolotl-ai-cloud/axolotl v0.18.0 examples/llama-3/qlora.yml
    "axolotl": (
        "axolotl",
        "a.yml",
        """
base_model: NousResearch/Meta-Llama-3-8B
load_in_8bit: false
load_in_4bit: true
datasets:
  - path: aaditya/alpaca_subset_1
    type: alpaca
adapter: qlora
lora_model_dir:
sequence_len: 4096
sample_packing: true
lora_r: 32
lora_dropout: 0.05
lora_target_linear: true
gradient_accumulation_steps: 4
micro_batch_size: 2
optimizer: paged_adamw_32bit
bf16: auto
tf32: false
gradient_checkpointing: true
attn_implementation: flash_attention_2
""",
        "NousResearch/Meta-Llama-3-8B",
        {"quant": "nf4-dq", "precision": "bf16-autocast", "dtype": "bf16", "lora_rank": 32, "batch": 2, "seq": 4096,
         "lora_targets": ("all-linear",), "optimizer": "paged-adamw", "attention": "flash_attention_2",
         "recompute": "full"},
    ),
    # axolotl-ai-cloud/axolotl v0.19.0 examples/llama-3/qlora-1b-kto.yaml
    "axolotl kto": (
        "axolotl",
        "a.yml",
        """
base_model: meta-llama/Llama-3.2-1B
load_in_8bit: false
load_in_4bit: true
rl: kto
rl_beta: 0.5
kto_desirable_weight: 0.2
datasets:
  - path: argilla/ultrafeedback-binarized-preferences-cleaned-kto
    type: llama3.ultra
    split: train
remove_unused_columns: false
adapter: qlora
sequence_len: 2048
sample_packing: false
lora_r: 32
lora_dropout: 0.05
lora_target_linear: true
gradient_accumulation_steps: 1
micro_batch_size: 2
optimizer: adamw_8bit
bf16: auto
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: false
attn_implementation: flash_attention_2
special_tokens:
  pad_token: "<|end_of_text|>"
""",
        "meta-llama/Llama-3.2-1B",
        {"objective": "kto", "quant": "nf4-dq", "lora_rank": 32, "batch": 2, "seq": 2048, "reference": None},
    ),
    # hiyouga/LLaMA-Factory v0.9.5 examples/train_lora/qwen3_lora_dpo.yaml
    "LLaMA-Factory dpo": (
        "llama-factory",
        "a.yaml",
        """
model_name_or_path: Qwen/Qwen3-4B-Instruct-2507
stage: dpo
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
pref_beta: 0.1
pref_loss: sigmoid
dataset: dpo_en_demo
template: qwen3_nothink
cutoff_len: 2048
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
bf16: true
""",
        "Qwen/Qwen3-4B-Instruct-2507",
        {"objective": "dpo", "precision": "bf16-autocast", "recompute": "full", "batch": 1, "seq": 2048},
    ),
    # hiyouga/LLaMA-Factory v0.9.5 examples/train_lora/qwen3_lora_sft.yaml
    "LLaMA-Factory": (
        "llama-factory",
        "a.yaml",
        """
model_name_or_path: Qwen/Qwen3-4B-Instruct-2507
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: identity,alpaca_en_demo
template: qwen3_nothink
cutoff_len: 2048
report_to: none
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
bf16: true
""",
        "Qwen/Qwen3-4B-Instruct-2507",
        {"precision": "bf16-autocast", "dtype": "bf16", "recompute": "full", "lora_targets": ("all-linear",),
         "seq": 2048},
    ),
    # huggingface/trl v1.9.0 examples/cli_configs/example_config.yaml, and its defaults
    "TRL": (
        "trl",
        "a.yaml",
        """
model_name_or_path: Qwen/Qwen2.5-0.5B
dataset_name: stanfordnlp/imdb
report_to: none
learning_rate: 0.0001
lr_scheduler_type: cosine
use_peft: true
lora_r: 32
""",
        "Qwen/Qwen2.5-0.5B",
        {"precision": "bf16-mixed", "dtype": "fp32", "batch": 8, "seq": 1024, "recompute": "full", "lora_rank": 32,
         "lora_dropout": 0.05},
    ),
    # huggingface/transformers v5.23.0 TrainingArguments
    "Trainer": (
        "transformers",
        "a.json",
        json.dumps({"output_dir": "x", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "bf16": True,
                    "gradient_checkpointing": True, "optim": "adamw_bnb_8bit", "max_grad_norm": 1.0}),
        None,
        {"batch": 4, "accumulate": 2, "precision": "bf16-mixed", "recompute": "full", "optimizer": "adamw-8bit"},
    ),
    # unslothai/unsloth v0.1.801-beta unsloth_cli/config.py
    "unsloth": (
        "unsloth",
        "a.yaml",
        "model: unsloth/Llama-3.2-1B\ntraining: {load_in_4bit: true, max_seq_length: 1024}\nlora: {lora_r: 16}\n",
        "unsloth/Llama-3.2-1B",
        {"quant": "nf4-dq", "seq": 1024, "batch": 2, "accumulate": 4, "optimizer": "adamw-8bit", "lora_rank": 16},
    ),
}  # fmt: skip


def written(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("case", PUBLISHED)
def test_a_published_config_is_its_workload(case: str, tmp_path: Path) -> None:
    stack, name, text, model, wanted = PUBLISHED[case]
    job = read(written(tmp_path, name, text))
    assert (job.stack, job.model) == (stack, model)
    assert {key: job.said.get(key) for key in wanted} == wanted
    # Every key of a published config is on one of the lists.
    assert not [line for line in job.unmodelled if "not a key" in line]


@pytest.mark.parametrize(
    ("case", "wanted"), [("axolotl kto", "as TRL 1.9"), ("LLaMA-Factory dpo", "all logits in fp32")]
)
def test_a_config_of_preferences_is_answered_as_its_trainer(
    case: str, wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, PUBLISHED[case][1], PUBLISHED[case][2])
    main(["train", "--from", path, "--model", "llama-3.2-1b", "--seq", "256", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["workload"]["objective"] == case.split()[1]
    assert result["workload"]["reference"] == "adapter"
    assert any(wanted in note for note in result["caveats"])


def test_every_stack_is_named_by_its_own_config() -> None:
    assert {c.stack for c in configs()} == {stack for stack, *_ in PUBLISHED.values()}


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("tiled_mlp: true", "tiled_mlp"),
        ("brand_new_switch: 3", "brand_new_switch"),
        ("gradient_checkpointing: offload", "gradient_checkpointing"),
        ("lora_mlp_kernel: true", "lora_mlp_kernel"),
        ("micro_batchsize: 2", "did you mean micro_batch_size"),
        ("rl: grpo", "rl"),
        ("rl: dpo\ndpo_padding_free: true", "dpo_padding_free"),
    ],
)
def test_what_may_change_memory_is_told_by_name(said: str, names: str, tmp_path: Path) -> None:
    job = read(written(tmp_path, "a.yml", f"base_model: gpt2\nflash_attention: true\n{said}\n"))
    assert len(job.unmodelled) == 1
    assert names in job.unmodelled[0]


@pytest.mark.parametrize(
    ("said", "objective", "told"),
    [
        ("stage: dpo\n", "dpo", ""),
        ("stage: dpo\npref_loss: orpo\n", "orpo", ""),
        ("stage: dpo\npref_loss: simpo\n", "simpo", ""),
        ("stage: dpo\npref_loss: ipo\n", "dpo", ""),
        ("stage: sft\npref_loss: orpo\n", None, ""),
        ("stage: kto\n", "kto", ""),
        ("stage: dpo\npref_ftx: 0.1\n", "dpo", "pref_ftx"),
    ],
)
def test_llama_factorys_preferences_are_objectives(said: str, objective: str, told: str, tmp_path: Path) -> None:
    text = f"model_name_or_path: gpt2\nfinetuning_type: lora\nbf16: true\n{said}"
    job = read(written(tmp_path, "a.yml", text))
    assert job.said.get("objective") == objective
    assert bool(job.unmodelled) == bool(told)
    assert told in "".join(job.unmodelled)


@pytest.mark.parametrize(
    ("name", "said", "recompute"),
    [
        ("a.yml", "base_model: gpt2\nflash_attention: true\ngradient_checkpointing: true\n", "full"),
        ("a.yml", "base_model: gpt2\nflash_attention: true\ngradient_checkpointing: true\n"
         "gradient_checkpointing_kwargs:\n  use_reentrant: false\n", "non-reentrant"),
        ("a.yml", "base_model: gpt2\nflash_attention: true\ngradient_checkpointing: true\n"
         "gradient_checkpointing_kwargs:\n  use_reentrant: true\n", "reentrant"),
        ("a.yaml", "model_name_or_path: gpt2\nstage: sft\nfinetuning_type: lora\nbf16: true\n", "full"),
        ("a.yaml", "model_name_or_path: gpt2\nstage: sft\nfinetuning_type: lora\nbf16: true\n"
         "use_reentrant_gc: false\n", "non-reentrant"),
    ],
)  # fmt: skip
def test_a_config_says_how_layers_run_again(name: str, said: str, recompute: str, tmp_path: Path) -> None:
    job = read(written(tmp_path, name, said))
    assert job.said["recompute"] == recompute
    assert not job.unmodelled


@pytest.mark.parametrize(("steps", "emptied"), [(1, True), (250, False)])
def test_an_emptied_cache_is_read(steps: int, emptied: bool, tmp_path: Path) -> None:
    said = f"base_model: gpt2\nflash_attention: true\ntorch_empty_cache_steps: {steps}\n"
    job = read(written(tmp_path, "a.yml", said))
    assert (job.said["empty_cache"], job.unmodelled) == (emptied, ())


CUT = "plugins:\n  - axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin\n"


@pytest.mark.parametrize(
    ("said", "loss", "told"),
    [
        (CUT, "cut", ""),
        (CUT + "cut_cross_entropy: false\n", None, ""),
        ("cut_cross_entropy: true\n", None, "not among the plugins"),
        ("plugins: [axolotl.integrations.spectrum.SpectrumPlugin]\n", None, "SpectrumPlugin"),
        (CUT + "liger_fused_linear_cross_entropy: true\n", "fused", "beside Liger's loss"),
    ],
)
def test_axolotls_plugins_choose_the_loss(said: str, loss: str | None, told: str, tmp_path: Path) -> None:
    # src/axolotl/integrations/cut_cross_entropy/args.py: the plugin's key is true when it is not said
    job = read(written(tmp_path, "a.yml", f"base_model: gpt2\nflash_attention: true\n{said}"))
    assert job.said.get("loss") == loss
    assert bool(job.unmodelled) == bool(told)
    assert told in "".join(job.unmodelled)


AXOLOTLS = "base_model: gpt2\nflash_attention: true\n"
TRAINERS = "per_device_train_batch_size: 1\nuse_liger_kernel: true\nliger_kernel_config: "


@pytest.mark.parametrize(
    ("said", "kernels", "loss"),
    [
        (AXOLOTLS + "liger_rope: true\n", "liger:rope", "full"),
        (AXOLOTLS + "liger_rms_norm: true\nliger_glu_activation: true\nliger_cross_entropy: true\n",
         "liger:rms_norm+swiglu", "liger"),
        (AXOLOTLS + "liger_rope: true\nliger_rms_norm: true\nliger_swiglu: true\n", "liger", "full"),
        (AXOLOTLS + "liger_fused_linear_cross_entropy: true\n", None, "fused"),
        (TRAINERS + "{rope: false}\n", "liger:rms_norm+swiglu", None),
        (TRAINERS + "{rope: true, fused_linear_cross_entropy: false}\n", "liger", "full"),
        (TRAINERS + "{cross_entropy: true, fused_linear_cross_entropy: false, geglu: false}\n",
         "liger:rms_norm+rope", "liger"),
        (TRAINERS + "{rope: false, rms_norm: false, swiglu: false}\n", None, "fused"),
    ],
)  # fmt: skip
def test_parts_of_liger_are_read(said: str, kernels: str | None, loss: str | None, tmp_path: Path) -> None:
    job = read(written(tmp_path, "a.yml", said))
    assert (job.said.get("kernels"), job.said.get("loss"), job.unmodelled) == (kernels, loss, ())


def test_switches_that_liger_has_not_are_told(tmp_path: Path) -> None:
    (told,) = read(written(tmp_path, "a.yml", TRAINERS + "{rotary: false}\n")).unmodelled
    assert "liger_kernel_config" in told
    with pytest.raises(InputError, match="refuses"):
        read(written(tmp_path, "a.yml", TRAINERS + "{cross_entropy: true}\n"))


def test_a_plugin_beside_a_head_that_scales_leaves_all_logits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "a.yml", f"base_model: granite-3.3-2b\nflash_attention: true\nsequence_len: 64\n{CUT}")
    assert main(["train", "--from", path, "--gpu", "80GiB", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["fit"]["verdict"] == "uncertain"
    assert any("head of granite: all logits are answered" in note for note in result["caveats"])


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("adapter: lora\nlora_r: 8\n", "turned on by axolotl"),
        ("adapter: lora\nlora_r: 8\nlora_mlp_kernel: false\n", ""),
        ("adapter: lora\nlora_r: 8\ntrust_remote_code: true\n", ""),
        ("adapter: lora\nlora_r: 8\nload_in_8bit: true\n", ""),
        ("", ""),
    ],
)
def test_kernels_that_axolotl_turns_on_are_told(said: str, told: str, tmp_path: Path) -> None:
    # utils/schemas/config.py, check_auto_enable_lora_kernels
    job = read(written(tmp_path, "a.yml", f"base_model: gpt2\nflash_attention: true\n{said}"))
    assert bool(job.unmodelled) == bool(told)
    assert told in "".join(job.unmodelled)


def test_axolotls_block_of_fsdp_turns_it_on(tmp_path: Path) -> None:
    job = read(written(tmp_path, "a.yml", "base_model: gpt2\nfsdp_config:\n  reshard_after_forward: true\n"))
    assert job.said["sharding"] == "fsdp"


def test_targets_may_be_a_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # examples/gemma3/gemma-3-4b-vision-qlora.yml; peft, tuners/tuners_utils.py: a text is matched with re.fullmatch
    pattern = r"model.language_model.layers.[\d]+.(mlp|cross_attn|self_attn).(up|down|gate|q|k|v|o)_proj"
    text = f"base_model: gemma-3-4b\nadapter: lora\nlora_r: 8\nsequence_len: 64\nlora_target_modules: '{pattern}'\n"
    path = written(tmp_path, "a.yml", text)
    assert main(["train", "--from", path, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["workload"]["lora_targets"]) == {f"{p}_proj" for p in ("up", "down", "gate", "q", "k", "v", "o")}
    # 34 layers, width 2,560, 8 heads and 4 of keys of 256, 10,240 inside; the towers' own projections are left alone
    each = (2560 + 2048) * 2 + (2560 + 1024) * 2 + (2560 + 10240) * 3
    assert f"{34 * 8 * each:,} trained" in " ".join(c["why"] for c in result["ranks"][0]["components"])


def test_names_that_no_module_has_are_passed_over_as_peft_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # examples/glm47-flash/qlora.yaml: latent attention has no q_proj, k_proj and v_proj
    text = "base_model: glm-4.7-flash\nadapter: lora\nlora_r: 8\nlora_mlp_kernel: false\nsequence_len: 64\n"
    path = written(tmp_path, "a.yml", text + "lora_target_modules: [q_proj, v_proj, k_proj, o_proj]\n")
    assert main(["train", "--from", path, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["workload"]["lora_targets"] == ["o_proj"]
    assert any("q_proj, v_proj, k_proj: peft passes over" in note for note in result["caveats"])
    # Typed by hand, and where nothing is found at all, it is an error.
    assert main(["train", "--from", path, "--lora-targets", "q_proj,o_proj"]) == 2
    path = written(tmp_path, "b.yml", text + "lora_target_modules: [q_proj]\n")
    assert main(["train", "--from", path]) == 2


def test_such_a_config_is_never_sure_to_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = "base_model: gpt2\nflash_attention: true\nsequence_len: 128\n"
    for text, verdict in ((plain, "fits"), (plain + "tiled_mlp: true\n", "uncertain")):
        path = written(tmp_path, "a.yml", text)
        assert main(["train", "--from", path, "--gpu", "24GiB", "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["fit"]["verdict"] == verdict
        assert any("tiled_mlp" in note for note in result["caveats"]) == (verdict == "uncertain")


COMPILED = {
    "axolotl": "base_model: llama-3.2-1b\nflash_attention: true\ntorch_compile: auto\nsequence_len: 256\n",
    "transformers": "model_name_or_path: llama-3.2-1b\nper_device_train_batch_size: 1\nblock_size: 4096\n"
    "torch_compile: true\nbf16: true\n",
    "torchtune": "model: {_component_: torchtune.models.llama3_2.llama3_2_1b}\ncompile: True\ndtype: bf16\n"
    "batch_size: 1\ntokenizer: {max_seq_len: 256}\n",
}


@pytest.mark.parametrize("stack", COMPILED)
def test_a_switch_of_torch_compile_is_answered(stack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "a.yml", COMPILED[stack])
    assert main(["train", "--from", path, "--stack", stack, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["workload"]["compile"] is True
    assert any("min cut" in note for note in result["caveats"])
    assert main(["train", "--from", path, "--stack", stack, "--no-compile", "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert result["ranks"][0]["allocated_bytes"] < other["ranks"][0]["allocated_bytes"]


def test_a_switch_that_is_not_modelled_there_is_told_and_forbids_to_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "base_model: llama-3.2-1b\nadapter: lora\npeft_use_dora: true\nlora_r: 8\nlora_target_linear: true\n"
    path = written(tmp_path, "a.yml", text + "sequence_len: 128\ntorch_compile: true\n")
    assert main(["train", "--from", path, "--gpu", "80GiB", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["fit"]["verdict"] == "uncertain"
    assert any("compile is not modelled with adapter" in note for note in result["caveats"])


@pytest.mark.parametrize(
    "said", ["wandb_project: x", "learning_rate: 0.1", "tiled_mlp: false", "torch_compile:", "seed: 7"]
)
def test_what_cannot_is_passed_over(said: str, tmp_path: Path) -> None:
    assert not read(written(tmp_path, "a.yml", f"base_model: gpt2\nflash_attention: true\n{said}\n")).unmodelled


CONTRADICTIONS = {
    "bf16 and fp16": ("per_device_train_batch_size: 1\nbf16: true\nfp16: true\n", "both true"),
    "qlora of nothing": ("base_model: gpt2\nadapter: qlora\nlora_r: 8\n", "load_in_4bit"),
    "packed and full": ("base_model: gpt2\nload_in_4bit: true\n", "without an adapter"),
    "both losses": (
        "base_model: gpt2\nliger_cross_entropy: true\nliger_fused_linear_cross_entropy: true\n", "both true"),
    "accumulation twice": ("base_model: gpt2\nbatch_size: 8\ngradient_accumulation_steps: 2\n", "both set"),
    "step in backward": (
        "model: {_component_: torchtune.models.llama2.llama2_7b}\noptimizer_in_bwd: true\n"
        "gradient_accumulation_steps: 2\n", "refuses"),
    "offload without checkpoints": (
        "model: {_component_: torchtune.models.llama2.llama2_7b}\nenable_activation_offloading: true\n", "refuses"),
    "packed rows of no length": (
        "model: {_component_: torchtune.models.llama2.llama2_7b}\ndataset: {packed: true}\n", "max_seq_len"),
    "quantized and mixed": ("checkpoint_dir: a/b\nprecision: bf16-mixed\nlora_r: 8\nquantize: bnb.nf4\n", "refuses"),
    "nothing trained": ("lora_r: 8\nlora_query: false\nlora_value: false\ncheckpoint_dir: a/b\nprecision: bf16-true\n",
                        "every lora_"),
    "packed and not adapted": (
        "model_name_or_path: a/b\nfinetuning_type: full\nquantization_bit: 4\n", "packed weights"),
    "TRL without adapters": ("model_name_or_path: a/b\nuse_peft: false\nload_in_4bit: true\n", "use_peft is off"),
    "two shardings": ("per_device_train_batch_size: 1\nfsdp: full_shard\ndeepspeed: ds_z2.json\n", "both asked for"),
    "no such optimizer": ("base_model: gpt2\noptimizer: adamw_torhc\n", "did you mean adamw_torch"),
    "no number": ("base_model: gpt2\nmicro_batch_size: many\n", "whole number"),
    "no sequences": ("base_model: gpt2\nmicro_batch_size: 0\n", "from 1"),
    "no truth": ("base_model: gpt2\nload_in_4bit: perhaps\n", "true or false"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_named(case: str, tmp_path: Path) -> None:
    text, says = CONTRADICTIONS[case]
    with pytest.raises(InputError) as e:
        read(written(tmp_path, "a.yaml", text))
    assert says in str(e.value)
    assert "\n" not in str(e.value)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
DAMAGED = {
    "a list": ("a.yaml", "- base_model: gpt2\n", "a list"),
    "a text": ("a.yaml", "base_model\n", "a text"),
    "empty": ("a.yaml", "", "empty"),
    "no YAML": ("a.yaml", "base_model: [gpt2\n", "no YAML"),
    "a tag": ("a.yaml", "base_model: !!python/object/apply:os.system ['true']\n", "no YAML"),
    "aliases without end": ("a.yaml", LAUGHS, "values"),
    "itself": ("a.yaml", "a: &a {b: *a}\n", ""),
    "deep": ("a.yaml", "a: " + "[" * 200 + "]" * 200, "levels"),
    "deeper": ("a.yaml", "a: " + "[" * 20000 + "]" * 20000, "levels"),
    "large": ("a.yaml", "#" * (50 * 2**20), "at most"),
    "no JSON": ("a.json", "{", "no JSON"),
    "deep JSON": ("a.json", "[" * 200000, "levels"),
    "no TOML": ("a.toml", "[a", "no TOML"),
    "nobody's": ("a.yaml", "colour: red\n", "no stack is known"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_one_line(case: str, tmp_path: Path) -> None:
    name, text, says = DAMAGED[case]
    with pytest.raises(InputError) as e:
        read(written(tmp_path, name, text))
    assert says in str(e.value)
    assert "\n" not in str(e.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(InputError, match="no text"):
        read(str(path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file"):
        read(str(tmp_path / "none.yaml"))


def test_yaml_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(UnsupportedError, match=r"tonnage\[yaml\]"):
        read(written(tmp_path, "a.yaml", "base_model: gpt2\n"))


COMMANDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "tune run lora_finetune_single_device --config a.yaml batch_size=1 model.lora_rank=16 tokenizer.max_seq_len=512":
        ("torchtune full", "torchtune", {"batch": 1, "seq": 512}),
    "tune run --nproc_per_node 2 full_finetune_distributed --config a.yaml": (
        "torchtune full", "torchtune", {"gpus": 2, "sharding": "fsdp"}),
    "litgpt finetune_lora org/name --config a.yaml --train.micro_batch_size 2 --lora_key true": (
        "litgpt", "litgpt", {"batch": 2, "accumulate": 4, "lora_targets": ("query", "key", "value")}),
    "axolotl train a.yaml --micro-batch-size 1": ("axolotl", "axolotl", {"batch": 1}),
    "accelerate launch --num_processes 4 -m axolotl.cli.train a.yaml": ("axolotl", "axolotl", {"gpus": 4, "batch": 2}),
    "llamafactory-cli train a.yaml cutoff_len=512": ("LLaMA-Factory", "llama-factory", {"seq": 512}),
    "trl sft --config a.yaml --max_length 256 --load_in_4bit --no_such true": (
        "TRL", "trl", {"seq": 256, "quant": "nf4"}),
    "trl dpo --config a.yaml --max_length 256 --precompute_ref_log_probs true --no_such true": (
        "TRL", "trl", {"seq": 256, "objective": "dpo", "reference": "precomputed", "loss": None}),
    "python trl/scripts/sft.py --model_name_or_path a/b --dataset_name c --gradient_checkpointing false": (
        "", "trl", {"recompute": "none", "precision": "bf16-mixed"}),
    "torchrun --nproc_per_node=2 -m torchtitan.train --job.config_file a.toml --training.seq_len 1024": (
        "torchtitan", "torchtitan", {"seq": 1024, "gpus": 2}),
    "tune run full_finetune_single_device --config a.yaml dataset.packed=True tokenizer.max_seq_len=4096": (
        "torchtune full", "torchtune", {"seq": 4096, "attention": "flex"}),
    "tune run full_finetune_single_device --config a.yaml dataset.packed=True tokenizer.max_seq_len=512 compile=True": (
        "torchtune full", "torchtune", {"compile": True, "attention": None}),
    "torchrun -m torchtitan.train --job.config_file a.toml --model.flavor 8B_flex "
    "--activation_checkpoint.selective_ac_option 2": ("torchtitan", "torchtitan", {"attention": "flex"}),
    "python unsloth-cli.py --model_name a/b --load_in_4bit --r 32 --max_seq_length 512": (
        "", "unsloth", {"lora_rank": 32, "quant": "nf4-dq", "seq": 512}),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of, stack, wanted = COMMANDS[command]
    if of:
        written(tmp_path, "a.toml" if of == "torchtitan" else "a.yaml", PUBLISHED[of][2])
    monkeypatch.chdir(tmp_path)
    job = read(command)
    assert job.stack == stack
    assert {key: job.said.get(key) for key in wanted} == wanted
    assert any("no_such" in line for line in job.unmodelled) == ("no_such" in command)


def test_what_accelerate_is_told_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface/trl v1.9.0 examples/accelerate_configs/deepspeed_zero3.yaml, a few keys."""
    written(
        tmp_path, "zero 3.yaml", "compute_environment: LOCAL_MACHINE\ndistributed_type: DEEPSPEED\nnum_processes: 8\n"
        "mixed_precision: bf16\ndeepspeed_config: {zero_stage: 3, offload_optimizer_device: none}\n",
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert read("zero 3.yaml").said["sharding"] == "zero-3"
    job = read("accelerate launch --config_file 'zero 3.yaml' -m trl.scripts.sft --model_name_or_path a/b")
    assert (job.stack, job.said["gpus"], job.said["sharding"]) == ("trl", 8, "zero-3")


@pytest.mark.parametrize("command", ["vllm serve org/name", "python mine.py", "axolotl train ${CONFIG}", "tune run 'x"])
def test_commands_that_are_none(command: str) -> None:
    with pytest.raises(TonnageError) as e:
        read(command)
    assert "\n" not in str(e.value)


def test_what_is_said_beside_wins_and_the_model_can_be_named(tmp_path: Path) -> None:
    path = written(tmp_path, "a.yml", "base_model: no/such\nmicro_batch_size: 4\nsequence_len: 64\n")
    result = tn.train("gpt2", config=path, batch=2)
    assert result.workload["stack"] == "axolotl"
    assert (result.workload["batch"], result.workload["seq"]) == (2, 64)
    assert result.model["name"] == "gpt2"


def test_a_stack_that_is_named_is_not_guessed(tmp_path: Path) -> None:
    path = written(tmp_path, "a.yaml", "per_device_train_batch_size: 2\n")
    assert read(path).stack == "transformers"
    assert read(path, "trl").said["seq"] == 1024
    with pytest.raises(InputError, match="did you mean axolotl"):
        read(path, "axolotle")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("galore_adamw_8bit", ("galore-8bit", None)),
        ("galore_adamw_8bit_layerwise", ("galore-8bit", True)),
        ("apollo_adamw_layerwise", ("apollo", True)),
    ],
)
def test_a_layerwise_optimizer_steps_in_the_backward_pass(
    name: str, wanted: tuple[str, bool | None], tmp_path: Path
) -> None:
    said = read(written(tmp_path, "a.yaml", f"optim: {name}\n"), "transformers").said
    assert (said["optimizer"], said.get("optimizer_in_backward")) == wanted


@pytest.mark.parametrize(
    ("stack", "text", "wanted"),
    [
        ("axolotl", "base_model: a/b\noptimizer: q_galore_adamw8bit\n", ("q-galore-proj", 256)),
        ("axolotl", "base_model: a/b\noptimizer: q_galore_adamw8bit\nqgalore_rank: 64\n", ("q-galore-proj", 64)),
        ("transformers", "optim: galore_adamw\noptim_args: rank=64, update_proj_gap=100, scale=0.10\n", ("galore", 64)),
        ("transformers", "optim: apollo_adamw\n", ("apollo", None)),
        ("llama-factory", "model_name_or_path: a/b\nfinetuning_type: full\nuse_galore: true\n", ("galore", 16)),
        (
            "llama-factory", "model_name_or_path: a/b\nfinetuning_type: full\nuse_apollo: true\napollo_rank: 256\n",
            ("apollo", 256),
        ),
    ],
)  # fmt: skip
def test_the_rank_of_projections_is_read(stack: str, text: str, wanted: tuple[str, int | None], tmp_path: Path) -> None:
    job = read(written(tmp_path, "a.yaml", text), stack)
    assert (job.said["optimizer"], job.said.get("optimizer_rank")) == wanted
    assert not [u for u in job.unmodelled if "optim" in u or "rank" in u]


def test_other_arguments_of_an_optimizer_are_told(tmp_path: Path) -> None:
    job = read(written(tmp_path, "a.yaml", "optim: galore_adamw\noptim_args: rank=64,proj_type=full\n"), "transformers")
    assert [u for u in job.unmodelled if "proj_type" in u]


def test_every_table_reads_its_own_defaults() -> None:
    for table in configs():
        job = told(table, {}, "nothing")
        assert job.stack == table.stack
        assert not job.unmodelled or table.stack in ("unsloth", "axolotl")


@pytest.mark.parametrize(
    ("stack", "text", "wanted"),
    [
        ("trl", "model_name_or_path: a/b\npacking: true\n", ("flat", None, 1024)),
        ("trl", "model_name_or_path: a/b\npacking: true\npacking_strategy: wrapped\n", (None, None, 1024)),
        (
            "trl", "model_name_or_path: a/b\npadding_free: true\nattn_implementation: flash_attention_3\n",
            ("flat", "flash_attention_2", 1024),
        ),
        ("axolotl", "base_model: a/b\nsample_packing: true\nattn_implementation: sdpa\n", ("rows", "sdpa", 512)),
        (
            "axolotl", "base_model: a/b\nsample_packing: true\nflash_attention: true\n",
            ("flat", "flash_attention_2", 512),
        ),
        (
            "axolotl", "base_model: a/b\nsample_packing: true\nflash_attention: true\nmultipack_real_batches: true\n",
            ("rows", "flash_attention_2", 512),
        ),
        (
            "axolotl", "base_model: a/b\nsample_packing: true\nattn_implementation: flex_attention\n",
            (None, "flex", 512),
        ),
        ("axolotl", "base_model: a/b\nsample_packing: true\n", (None, None, 512)),
        # A token more than the length, and rows of eights.
        ("llama-factory", "model_name_or_path: a/b\nneat_packing: true\n", ("rows", "sdpa", 2056)),
        ("llama-factory", "model_name_or_path: a/b\npacking: true\n", (None, "sdpa", 2056)),
        (
            "llama-factory",
            "model_name_or_path: a/b\nneat_packing: true\nflash_attn: fa2\nper_device_train_batch_size: 1\n",
            ("rows", "flash_attention_2", 2048),
        ),
    ],
)  # fmt: skip
def test_packed_rows_are_read(
    stack: str, text: str, wanted: tuple[str | None, str | None, int], tmp_path: Path
) -> None:
    said = read(written(tmp_path, "a.yaml", text), stack).said
    assert (said.get("packing"), said.get("attention"), said["seq"]) == wanted


def test_packing_that_a_stack_refuses_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.yaml", "model_name_or_path: a/b\nneat_packing: true\nflash_attn: fa2\n")
    with pytest.raises(InputError, match="neat_packing with flash attention and per_device_train_batch_size = 8"):
        read(path, "llama-factory")


def test_packing_with_masks_by_blocks_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, "a.yaml", "base_model: a/b\nsample_packing: true\nattn_implementation: flex_attention\n")
    assert [u for u in read(path, "axolotl").unmodelled if "flex" in u]
