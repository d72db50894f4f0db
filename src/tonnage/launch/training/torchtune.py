"""torchtune's YAML, and ``tune run RECIPE --config FILE key=value ...``.

Reference: https://github.com/pytorch/torchtune/blob/v0.6.1/ (recipes/full_finetune_single_device.py,
recipes/lora_finetune_single_device.py, recipes/configs/)
"""

from __future__ import annotations

import re
from typing import Any, Final

from tonnage.errors import InputError
from tonnage.launch.training import Config, Key, Settled
from tonnage.launch.training._values import count, one_of, share, text, texts, truth

MODELS: Final = {
    "llama2_7b": "llama-2-7b", "llama2_13b": "llama-2-13b", "llama2_70b": "llama-2-70b",
    "code_llama2_7b": "codellama-7b", "code_llama2_13b": "codellama-13b", "code_llama2_70b": "codellama-70b",
    "llama3_8b": "llama-3-8b", "llama3_70b": "llama-3-70b", "llama3_1_8b": "llama-3.1-8b",
    "llama3_1_70b": "llama-3.1-70b", "llama3_1_405b": "llama-3.1-405b", "llama3_2_1b": "llama-3.2-1b",
    "llama3_2_3b": "llama-3.2-3b", "llama3_3_70b": "llama-3.3-70b", "mistral_7b": "mistral-7b-v0.1",
    "gemma_2b": "gemma-2b", "gemma_7b": "gemma-7b", "gemma2_2b": "gemma-2-2b", "gemma2_9b": "gemma-2-9b",
    "gemma2_27b": "gemma-2-27b", "phi3_mini": "phi-3-mini", "phi4_14b": "phi-4", "qwen2_0_5b": "qwen2-0.5b",
    "qwen2_1_5b": "qwen2-1.5b", "qwen2_7b": "qwen2-7b", "qwen2_5_0_5b": "qwen2.5-0.5b",
    "qwen2_5_1_5b_base": "qwen2.5-1.5b", "qwen2_5_1_5b_instruct": "qwen2.5-1.5b-instruct",
    "qwen2_5_3b": "qwen2.5-3b", "qwen2_5_7b_base": "qwen2.5-7b", "qwen2_5_7b_instruct": "qwen2.5-7b-instruct",
    "qwen2_5_14b_base": "qwen2.5-14b", "qwen2_5_14b_instruct": "qwen2.5-14b-instruct",
    "qwen2_5_32b_base": "qwen2.5-32b", "qwen2_5_32b_instruct": "qwen2.5-32b-instruct",
    "qwen2_5_72b_base": "qwen2.5-72b", "qwen2_5_72b_instruct": "qwen2.5-72b-instruct",
    **{f"qwen3_{size}_{kind}": f"qwen3-{size.replace('_', '.')}"
       for size in ("0_6b", "1_7b", "4b", "8b", "14b") for kind in ("base", "instruct")},
    "qwen3_32b": "qwen3-32b", "smollm2_135m": "smollm2-135m", "smollm2_360m": "smollm2-360m",
    "smollm2_1_7b": "smollm2-1.7b",
}  # fmt: skip
"""Builders without what they begin with for adapters."""

OPTIMIZERS: Final = {
    "torch.optim.AdamW": "adamw", "torch.optim.Adam": "adamw", "torch.optim.SGD": "sgd",
    "torch.optim.Adafactor": "adafactor-torch", "bitsandbytes.optim.PagedAdamW": "paged-adamw",
    "bitsandbytes.optim.PagedAdamW8bit": "paged-adamw-8bit", "bitsandbytes.optim.AdamW8bit": "adamw-8bit",
    "torchao.optim.AdamW8bit": "adamw-8bit-ao", "torchao.optim.AdamW4bit": "adamw-4bit-ao",
    "torchao.optim.AdamWFp8": "adamw-fp8-ao",
    "torchao.prototype.low_bit_optim.AdamW8bit": "adamw-8bit-ao",
    "torchao.prototype.low_bit_optim.AdamW4bit": "adamw-4bit-ao",
    "torchao.prototype.low_bit_optim.AdamWFp8": "adamw-fp8-ao",
    "torchao.optim.CPUOffloadOptimizer": "adamw-offload-ao",
    "torchao.prototype.low_bit_optim.CPUOffloadOptimizer": "adamw-offload-ao",
}  # fmt: skip
LOSSES: Final = {
    # Of main, after release 0.6.
    "torchtune.modules.loss.LinearCrossEntropyLoss": "linear",
    "torchtune.modules.loss.CEWithChunkedOutputLoss": "chunked",
    "torch.nn.CrossEntropyLoss": "full",
    "torchtune.modules.loss.ForwardKLWithChunkedOutputLoss": None,
    "torchtune.modules.loss.ForwardKLLoss": None,
    "torchtune.rlhf.loss.DPOLoss": None,
    "torchtune.rlhf.loss.PPOLoss": None,
    "torchtune.dev.grpo.loss.GRPOSimpleLoss": None,
}
FEED_FORWARD: Final = "mlp"
"""What stands for all matrices of the feed-forward blocks, whatever they are called."""


def model(value: Any, key: str) -> tuple[str | None, str]:
    """The model that a builder makes, None for one that the catalogue has not, and its way: "", lora, qlora, dora.

    >>> model("torchtune.models.llama3_1.qlora_llama3_1_8b", "model._component_")
    ('llama-3.1-8b', 'qlora')
    """
    builder = text(value, key).rpartition(".")[2]
    found = re.match(r"(?:(q?lora|q?dora)_)?(.+)", builder)
    assert found is not None
    way, name = found.group(1) or "", found.group(2)
    return MODELS.get(name), way


def _finish(said: dict[str, Any]) -> Settled:
    unmodelled: list[str] = []
    told: list[str] = []
    recipe = str(said.pop("_positional", ""))
    for word in ("dpo", "ppo", "grpo", "qat", "knowledge_distillation", "generation", "eval"):
        if word in recipe:
            unmodelled.append(f"{recipe}: answered as supervised fine-tuning")
    name, way = said.pop("_builder", (None, ""))
    said["_model"] = name
    if "distributed" in recipe:
        said["sharding"] = "fsdp"
    _adapted(said, way, unmodelled)
    dtype = said.pop("_dtype", "bf16")
    if dtype == "fp16":
        raise InputError("dtype = fp16: torchtune trains in bf16 and fp32 only", key="dtype", value="fp16")
    said |= {"precision": dtype, "dtype": dtype}
    fused = said.pop("_fused", False)
    if said.get("optimizer") == "adamw":
        said["optimizer"] = "adamw-fused" if fused else "adamw-foreach"
    said["recompute"] = "full" if said.pop("_recompute", False) else "none"
    if said.pop("_offloaded", False):
        if said["recompute"] == "none":
            raise InputError(
                "enable_activation_offloading is true and enable_activation_checkpointing is not, which torchtune "
                "refuses", key="enable_activation_offloading", hint="enable_activation_checkpointing: True",
            )  # fmt: skip
        unmodelled.append(
            "enable_activation_offloading = True: checkpoints go to the host, and are counted on the device"
        )
    if said.get("optimizer_in_backward") and said.get("accumulate", 1) > 1:
        raise InputError(
            f"optimizer_in_bwd with gradient_accumulation_steps = {said['accumulate']}, which torchtune refuses",
            key="optimizer_in_bwd", hint="gradient_accumulation_steps: 1",
        )  # fmt: skip
    if not said.get("optimizer_in_backward"):
        said.pop("optimizer_in_backward", None)
    if said.get("loss") == "linear":
        said["loss"] = "chunked"
        told.append("LinearCrossEntropyLoss is answered as CEWithChunkedOutputLoss, which holds 2 B more a logit")
    _length(said, told)
    return Settled(said, tuple(unmodelled), tuple(told))


def _adapted(said: dict[str, Any], way: str, unmodelled: list[str]) -> None:
    targets, mlp, head = said.pop("_modules", ()), said.pop("_mlp", False), said.pop("_head", False)
    packs, dora = said.pop("_packs", False), said.pop("_dora", False)
    if not way:
        for key in ("lora_rank", "lora_dropout"):
            said.pop(key, None)
        return
    if "lora_rank" not in said:
        said["lora_rank"] = 8
    said["lora_targets"] = (*targets, *([FEED_FORWARD] if mlp else []))
    said["adapter"] = "dora" if dora or "dora" in way else "lora"
    if packs or way.startswith("q"):
        said["quant"] = "nf4-dq"
    if head:
        unmodelled.append("model.apply_lora_to_output = True: the head's adapter is left out")


def _length(said: dict[str, Any], told: list[str]) -> None:
    """The tokens of a packed row; else at most those that the tokenizer lets through."""
    packed, seq = said.pop("_packed", False), said.get("seq")
    if packed and seq is None:
        raise InputError(
            "dataset.packed is true and tokenizer.max_seq_len is not set, which torchtune refuses",
            key="tokenizer.max_seq_len", hint="tokenizer.max_seq_len=4096",
        )  # fmt: skip
    if packed:
        # Other blocks of its own are not modelled, nor where a compiled layer is broken.
        if said.get("compile") or str(said["_model"]).startswith(("gemma-2", "phi", "None")):
            told.append("packed rows run through flex attention, which is answered as flash attention")
        else:
            said["attention"] = "flex"
    else:
        most = f"at most the {seq:,} tokens that are answered for" if seq else "which --seq names"
        told.append(f"batches are padded to their longest sample: {most}")


CONFIG: Final = Config(
    stack="torchtune",
    reference="torchtune v0.6.1",
    programs=(("tune", "run"),),
    file="--config",
    overrides=True,
    finish=_finish,
    marks=(frozenset(["model._component_"]), frozenset(["checkpointer._component_"])),
    keys=(
        Key(("model._component_",), "_builder", model),
        Key(("model.lora_attn_modules",), "_modules", texts),
        Key(("model.apply_lora_to_mlp",), "_mlp", truth),
        Key(("model.apply_lora_to_output",), "_head", truth),
        Key(("model.lora_rank",), "lora_rank", count),
        Key(("model.lora_dropout",), "lora_dropout", share),
        Key(("model.quantize_base",), "_packs", truth),
        Key(("model.use_dora",), "_dora", truth),
        Key(("tokenizer.max_seq_len",), "seq", count),
        Key(("dataset.packed",), "_packed", truth),
        Key(("batch_size",), "batch", count),
        Key(("gradient_accumulation_steps",), "accumulate", count),
        Key(("optimizer._component_",), "optimizer", one_of(OPTIMIZERS)),
        Key(("optimizer.fused",), "_fused", truth),
        Key(("optimizer.offload_gradients",), matters="gradients leave the device as they arrive", harmless=(False,)),
        Key(("optimizer_in_bwd",), "optimizer_in_backward", truth),
        Key(("loss._component_",), "loss", one_of(LOSSES)),
        Key(("dtype",), "_dtype", one_of({"bf16": "bf16", "fp32": "fp32", "fp16": "fp16"})),
        Key(("enable_activation_checkpointing",), "_recompute", truth),
        Key(("enable_activation_offloading",), "_offloaded", truth),
        Key(("tensor_parallel_dim",), "tp", count),
        Key(("context_parallel_dim",), "cp", count),
        Key(("compile",), "compile", truth),
        Key(("compile.*",), matters="what is compiled"),
        Key(("loss.num_output_chunks",), matters="chunks of the loss", harmless=(8,)),
        Key(("fsdp_cpu_offload",), matters="weights and states on the host"),
        Key(("custom_sharded_layers", "fsdp_reshard_after_forward"), matters="what is sharded", harmless=(True,)),
        Key(("resize_token_embeddings",), matters="rows of the vocabulary"),
        Key(("use_fp8_training", "enable_fp8_training", "quantizer", "quantizer.*"), matters="formats of weights"),
        Key(("teacher_model", "teacher_model.*", "ref_*", "reward_*", "value_*"), matters="further models"),
        Key(("ac_mode", "ac_option"), matters="what checkpoints keep"),
        Key(("optimizer.foreach",), matters="how the optimizer steps", harmless=(True,)),
        Key(("optimizer.momentum",), matters="a momentum of every parameter", harmless=(0, 0.0)),
        Key(("model.lora_alpha",), "_alpha", lambda *_: None),
        Key(("model.*",), matters="the model's own arguments", harmless=(0, 0.0)),
    ),
    inert=(
        "output_dir", "tokenizer", "dataset", "dataset_val", "checkpointer", "resume_from_checkpoint", "shuffle",
        "seed", "epochs", "max_steps_per_epoch", "clip_grad_norm", "lr_scheduler", "metric_logger", "log_*", "device",
        "profiler", "save_*", "low_cpu_ram", "cudnn_deterministic_mode", "optimizer", "loss", "collate_fn",
        "run_val_every_n_steps", "batch_size_val", "enable_async_checkpointing", "fsdp_sharding*",
        "tensor_parallel_plan", "data_parallel_*", "num_warmup_steps", "keep_last_n_checkpoints", "tp_plan",
    ),
)  # fmt: skip
