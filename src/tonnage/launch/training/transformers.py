"""transformers' Trainer: ``TrainingArguments``, those of its example scripts, and accelerate's own config beside them.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/ (src/transformers/training_args.py,
examples/pytorch/language-modeling/run_clm.py);
https://github.com/huggingface/accelerate/blob/v1.15.0/src/accelerate/commands/config/config_args.py
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.errors import InputError
from tonnage.launch.training import Config, Key, Settled
from tonnage.launch.training._trainer import INERT, KEYS, again, attention, autocast, liger, spread, stepped
from tonnage.launch.training._values import DTYPES, count, one_of, text, truth, whole

BATCH: Final = 8
SHARED: Final = {"NO": None, "MULTI_GPU": "ddp", "FSDP": "fsdp", "DEEPSPEED": "zero"}


def _finish(said: dict[str, Any]) -> Settled:
    unmodelled = [*stepped(said), *liger(said), *spread(said)]
    mixed = said.pop("_mixed", None)
    half = autocast(said) or (mixed if mixed in ("bf16", "fp16") else None)
    if mixed == "fp8":
        unmodelled.append("mixed_precision = fp8: answered without")
    loaded = said.pop("_dtype", None)
    loaded = None if loaded == "auto" else loaded
    if half:
        # Release 5 loads what the checkpoint has; fp32 weights are those of a checkpoint or of torch_dtype.
        said["precision"] = f"{half}-mixed" if loaded in (None, "fp32") else f"{half}-autocast"
        told = [
            f"{half}: autocast over weights in fp32, as the Trainer expects them; --precision {half}-autocast where "
            "the model is loaded in 16 bit"
        ] if loaded is None else []  # fmt: skip
    else:
        told = []
        if loaded is not None:
            said["precision"] = loaded
    if loaded is not None and loaded != "fp32":
        said["dtype"] = loaded
    kind = said.pop("_distributed", "NO")
    stage, processes = said.pop("_stage", None), said.get("gpus")
    if kind not in SHARED:
        raise InputError(
            f"distributed_type = {kind} is none that is known", key="distributed_type", value=kind,
            hint=f"one of {', '.join(SHARED)}",
        )  # fmt: skip
    if kind != "NO" and (processes or 1) > 1:
        said["sharding"] = f"zero-{stage or 2}" if kind == "DEEPSPEED" else SHARED[kind]
    said["recompute"] = again(said, False)
    said.setdefault("batch", BATCH)
    return Settled(said, tuple(unmodelled), tuple(told))


def _dynamo(value: Any, key: str) -> bool:
    """A backend; of those that are none of inductor's nothing is known but that they compile."""
    return text(value, key).lower() != "no"


CONFIG: Final = Config(
    stack="transformers",
    reference="transformers v5.23.0",
    programs=(("run_clm.py",), ("run_mlm.py",), ("run_sft.py",), ("train.py",), ("finetune.py",)),
    file="--config_file",
    flags=True,
    finish=_finish,
    fields=("fsdp_config", "deepspeed", "lr_scheduler_kwargs", "gradient_checkpointing_kwargs", "liger_kernel_config"),
    marks=(
        frozenset(["per_device_train_batch_size"]),
        frozenset(["distributed_type"]),
        frozenset(["compute_environment", "mixed_precision"]),
        frozenset(["output_dir", "gradient_accumulation_steps"]),
    ),
    keys=(
        Key(("model_name_or_path", "model_name", "model_id"), "_model", text),
        Key(("dtype", "torch_dtype"), "_dtype", one_of(DTYPES)),
        Key(("attn_implementation",), "attention", attention),
        Key(("block_size", "max_seq_length", "model_max_length", "max_length"), "seq", count),
        Key(("mixed_precision",), "_mixed", one_of({"no": "no", "bf16": "bf16", "fp16": "fp16", "fp8": "fp8"})),
        Key(("distributed_type",), "_distributed", lambda value, key: text(value, key).upper()),
        Key(("num_processes",), "gpus", count),
        Key(("deepspeed_config.zero_stage",), "_stage", whole),
        Key(("deepspeed_config.offload_*_device",), matters="states or weights on the host"),
        Key(("deepspeed_config.deepspeed_config_file",), matters="a file of settings of DeepSpeed"),
        Key(("fsdp_config.fsdp_offload_params",), matters="weights on the host"),
        Key(("fsdp_config.fsdp_activation_checkpointing",), "_recompute", truth),
        Key(("dynamo_config.dynamo_backend", "dynamo_backend"), "compile", _dynamo),
        Key(("dynamo_config.use_regional_compilation",), matters="each layer is compiled by itself", harmless=(False,)),
        Key(("dynamo_config.dynamo_mode", "torch_compile_mode"), matters="graphs and templates of the compiler",
            harmless=("default",)),
        *KEYS,
    ),
    inert=(
        *INERT, "compute_environment", "main_*", "machine_rank", "num_machines", "rdzv_backend", "same_network",
        "downcast_bf16", "enable_cpu_affinity", "use_cpu", "gpu_ids", "deepspeed_config.*", "fsdp_config.*",
        "dynamo_config.*", "dataset*", "validation_*", "train_file", "preprocessing_num_workers", "config_name",
        "tokenizer_*", "cache_dir", "low_cpu_mem_usage", "trust_remote_code", "model_revision", "token",
        "use_fast_tokenizer", "streaming",
        "max_train_samples", "max_eval_samples", "overwrite_cache", "keep_linebreaks", "model_type",
        "config_overrides", "fp8_config.*",
    ),
)  # fmt: skip
