"""axolotl's YAML.

Reference: https://github.com/axolotl-ai-cloud/axolotl/blob/v0.18.0/src/axolotl/ (utils/schemas/ for keys and defaults,
utils/config/__init__.py for the format of weights, loaders/model.py for what is cast, core/builders/ for arguments)
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.errors import InputError, UnsupportedError
from tonnage.launch.training import Config, Key, Settled
from tonnage.launch.training._preferences import SIGMOID, preferring
from tonnage.launch.training._trainer import NESTED, OPTIMIZERS, again, attention, flattened, spread, stepped
from tonnage.launch.training._values import count, every_step, modules, nests, one_of, share, text, texts, truth

LENGTH: Final = 512
"""``sequence_len``."""
Q_GALORE: Final = "q-galore-proj"
RANK: Final = 256
"""``qgalore_rank``."""
OWN: Final[dict[str, str | None]] = {
    "ao_adamw_4bit": "adamw-4bit-ao", "ao_adamw_8bit": "adamw-8bit-ao", "ao_adamw_fp8": "adamw-fp8-ao",
    "came_pytorch": "came", "muon": "muon",
    **dict.fromkeys((
        "optimi_adamw", "adopt_adamw", "dion", "sinkgd", "flash_adamw", "flash_adam", "flash_sgd", "flash_sgdw",
        "flash_lion",
    )),
    "q_galore_adamw8bit": Q_GALORE,
}  # fmt: skip
SWITCHES: Final = {
    "flash_attention": "flash_attention_2", "sdp_attention": "sdpa", "eager_attention": "eager",
    "flex_attention": "flex", "xformers_attention": None, "sage_attention": None,
}  # fmt: skip
PREFERENCES: Final = {"dpo": "dpo", "ipo": "dpo", "kto": "kto", "orpo": "orpo", "simpo": "simpo"}
"""Values of ``rl``, and the objectives that they are."""
LIGER: Final = "liger_fused_linear_cross_entropy", "liger_cross_entropy"
KERNELS: Final = tuple(f"lora_{part}_kernel" for part in ("mlp", "qkv", "o", "embedding"))
CUT: Final = "CutCrossEntropyPlugin"
READ: Final = (CUT, "LigerPlugin")
"""Plugins whose keys are read, by the last part of their names."""


def _finish(said: dict[str, Any]) -> Settled:
    open_ends = stepped(said)
    if said.get("_fsdp_config") and "_fsdp" not in said:
        # The block alone turns it on.
        said["_fsdp"] = "full_shard"
    told: list[str] = []
    unmodelled = [*open_ends, *spread(said)]
    rank = said.pop("_rank", RANK)
    if said.get("optimizer") == Q_GALORE:
        said["optimizer_rank"] = rank
    compute = _format(said)
    _attention(said)
    adapter, four, eight = said.pop("_adapter", None), said.pop("_four", False), said.pop("_eight", False)
    if four and eight:
        raise InputError("load_in_4bit and load_in_8bit are both true", key="load_in_4bit", hint="leave one out")
    if adapter == "qlora" and not four:
        raise InputError("adapter = qlora, which axolotl refuses without load_in_4bit", key="load_in_4bit")
    if adapter is None:
        if four or eight:
            raise InputError(
                f"load_in_{'4' if four else '8'}bit without an adapter: packed weights are not trained themselves",
                key="adapter", hint="adapter: qlora",
            )  # fmt: skip
        for key in ("lora_rank", "lora_dropout", "lora_targets", "_linear", "_dora", "_rslora", "modules_to_save"):
            said.pop(key, None)
    else:
        _adapted(said, four, eight)
    if adapter is None and said.get("attention") != "flash_attention_2" and compute != "fp32":
        unmodelled.append("without an adapter and flash attention, norms, embeddings and head stay in fp32: left out")
    said["dtype"] = compute
    said["precision"] = f"{compute}-autocast" if compute != "fp32" else "fp32"
    said["recompute"] = _recomputed(said, unmodelled)
    said.setdefault("batch", 1)
    said.setdefault("seq", LENGTH)
    said.setdefault("optimizer", "adamw-fused")
    cuts = _plugged(said, unmodelled)
    unmodelled += _losses(said)
    if cuts and "loss" in said and said["loss"] != "full":
        unmodelled.append(f"{CUT} beside Liger's loss: answered with Liger's")
    elif cuts:
        said["loss"] = "cut"
    unmodelled += _kernels(said, adapter is not None and not eight)
    batch = said.pop("_batch_size", None)
    if batch is not None and "accumulate" in said:
        raise InputError(
            "gradient_accumulation_steps and batch_size are both set, which axolotl refuses", key="batch_size",
            hint="leave one of the two out",
        )  # fmt: skip
    if batch is not None:
        said["accumulate"] = max(batch // said["batch"], 1)
    packed, real, padded = said.pop("_packing", False), said.pop("_real", None), said.pop("_padded", False)
    if packed and not said.get("_rl"):
        left, more = _packed(said, real)
        unmodelled, told = [*unmodelled, *left], [*told, *more]
    if not packed and not padded:
        told.append(f"batches are padded to their longest sample: at most the {said['seq']:,} tokens answered for")
    aim = said.pop("_rl", None)
    if aim in PREFERENCES:
        told += preferring(said, PREFERENCES[aim])
    elif aim:
        unmodelled.append(f"rl = {aim}: answered as supervised fine-tuning, without what is written, and the reference")
    said.pop("_precomputed", None)
    if said.pop("_reward", False):
        unmodelled.append("reward: answered as supervised fine-tuning, without a head of one number")
    return Settled(said, tuple(unmodelled), tuple(told))


def _packed(said: dict[str, Any], real: bool | None) -> tuple[list[str], list[str]]:
    """Rows of several texts: one row for all where flash-attn runs, else as many as the batch has.

    Returns what is left open, and what is said.
    """
    kind = said.get("attention")
    if kind in ("flash_attention_2", "flash"):
        return [], flattened(said, "rows" if real else "flat")
    if kind in ("sdpa", "eager"):
        return [], flattened(said, "rows" if real is not False else "flat")
    if kind == "flex":
        return ["sample_packing with flex attention: its masks by blocks are answered as those of one text"], []
    return [], ["sample_packing without an attention implementation: texts see each other, as those of one row"]


def _compiles(value: Any, key: str) -> bool:
    """``auto`` is true in every release of torch that axolotl still takes."""
    return value == "auto" or truth(value, key)


def _format(said: dict[str, Any]) -> str:
    """The format of weights and of autocast: what is named, in the order in which axolotl asks."""
    bf16, fp16, fp32 = said.pop("_bf16", None), said.pop("_fp16", None), said.pop("_fp32", None)
    if bf16 is True and fp16 is True:
        raise InputError("bf16 and fp16 are both true", key="bf16", hint="leave one of the two out")
    if bf16 and not (bf16 == "auto" and fp16):
        return "bf16"
    return "fp16" if fp16 else "fp32" if fp32 or bf16 is False else "bf16"


def _attention(said: dict[str, Any]) -> None:
    for name, kind in SWITCHES.items():
        if said.pop(f"_{name}", False) and "attention" not in said:
            if kind is None:
                raise UnsupportedError(f"{name} is not modelled yet", key=name, value="true")
            said["attention"] = kind


def _adapted(said: dict[str, Any], four: bool, eight: bool) -> None:
    if "lora_rank" not in said:
        raise InputError("adapter: no lora_r is said, which axolotl needs", key="lora_r", hint="lora_r: 16")
    if said.pop("_linear", False):
        said["lora_targets"] = ("all-linear",)
    said["adapter"] = "dora" if said.pop("_dora", False) else "rslora" if said.pop("_rslora", False) else "lora"
    said.pop("_rslora", None)
    if four:
        said["quant"] = "nf4-dq"
    if eight:
        said["quant"] = "int8"


def _recomputed(said: dict[str, Any], unmodelled: list[str]) -> str:
    value = said.pop("_recompute", False)
    if value in ("offload", "offload_disk", "unsloth"):
        unmodelled.append(
            f"gradient_checkpointing = {value}: checkpoints go to the host, and are counted on the device"
        )
        said.pop("_reentrant", None)
        return "full"
    said["_recompute"] = truth(value, "gradient_checkpointing")
    return again(said, False)


def _plugged(said: dict[str, Any], unmodelled: list[str]) -> bool:
    """Whether a plugin makes the loss one without logits, as it does where its key says nothing else."""
    names = [name.rpartition(".")[2] for name in said.pop("_plugins", ())]
    unmodelled += [f"plugins: {name}: what it changes is not read" for name in names if name not in READ]
    cuts = said.pop("_cut", None)
    if cuts and CUT not in names:
        unmodelled.append(f"cut_cross_entropy = True, and {CUT} is not among the plugins: answered with all logits")
    return CUT in names and cuts is not False


def _kernels(said: dict[str, Any], could: bool) -> list[str]:
    """Fused kernels of adapters: those that are asked for, and since 0.16 those that axolotl turns on by itself."""
    values = {name: said.pop(f"_{name}", None) for name in KERNELS}
    remote = said.pop("_remote", False)
    on = [name for name, value in values.items() if value]
    if on:
        return [f"{', '.join(on)}: fused kernels of adapters, which keep fewer tensors"]
    if could and not remote and not said.get("_rl") and all(value is None for value in values.values()):
        return [f"{', '.join(KERNELS)}: not set, and turned on by axolotl: they keep fewer tensors"]
    return []


def _losses(said: dict[str, Any]) -> list[str]:
    kinds = {key: said.pop(f"_{key}", False) for key in ("rms", "rope", "gated", "fused", "loss", "layer")}
    if not any(kinds.values()):
        return []
    if kinds["fused"] and kinds["loss"]:
        raise InputError(f"{' and '.join(LIGER)} are both true, which axolotl refuses", key=LIGER[0])
    said["loss"] = "fused" if kinds["fused"] else "liger" if kinds["loss"] else "full"
    parts = [name for name, key in (("rms_norm", "rms"), ("rope", "rope"), ("swiglu", "gated")) if kinds[key]]
    if parts:
        said["kernels"] = "liger" if len(parts) == 3 else f"liger:{'+'.join(parts)}"
    return []


CONFIG: Final = Config(
    stack="axolotl",
    reference="axolotl v0.18.0",
    programs=(("axolotl", "train"), ("axolotl.cli.train",)),
    flags=True,
    finish=_finish,
    fields=("fsdp_config", "deepspeed", "gradient_checkpointing_kwargs", "special_tokens", "peft", "max_memory"),
    marks=(frozenset(["base_model"]),),
    keys=(
        Key(("base_model",), "_model", text),
        Key(("micro_batch_size",), "batch", count),
        Key(("gradient_accumulation_steps",), "accumulate", count),
        Key(("batch_size",), "_batch_size", count),
        Key(("sequence_len",), "seq", count),
        Key(("sample_packing", "pretraining_sample_concatenation"), "_packing", truth),
        Key(("pad_to_sequence_len",), "_padded", truth),
        Key(("optimizer",), "optimizer", one_of({**OPTIMIZERS, **OWN})),
        Key(("bf16", "bfloat16"), "_bf16", lambda v, key: v if v in ("auto", "full") else truth(v, key)),
        Key(("fp16", "float16"), "_fp16", truth),
        Key(("float32",), "_fp32", truth),
        Key(("adapter",), "_adapter", one_of({"lora": "lora", "qlora": "qlora", "llama-adapter": None})),
        Key(("load_in_4bit",), "_four", truth),
        Key(("load_in_8bit",), "_eight", truth),
        Key(("lora_r",), "lora_rank", count),
        Key(("lora_dropout",), "lora_dropout", share),
        Key(("lora_target_modules",), "lora_targets", modules),
        Key(("lora_target_linear",), "_linear", truth),
        Key(("lora_modules_to_save",), "modules_to_save", texts),
        Key(("peft_use_dora",), "_dora", truth),
        Key(("peft_use_rslora",), "_rslora", truth),
        Key(("gradient_checkpointing",), "_recompute"),
        Key(NESTED, "_reentrant", nests),
        Key(("attn_implementation",), "attention", attention),
        *(Key((name,), f"_{name}", truth) for name in SWITCHES),
        Key(("liger_rms_norm",), "_rms", truth),
        Key(("liger_rope",), "_rope", truth),
        Key(("liger_glu_activation", "liger_swiglu"), "_gated", truth),
        Key(("liger_layer_norm",), "_layer", truth),
        Key((LIGER[0],), "_fused", truth),
        Key((LIGER[1],), "_loss", truth),
        Key(("fsdp",), "_fsdp"),
        Key(("fsdp_config",), "_fsdp_config"),
        Key(("deepspeed",), "_deepspeed"),
        Key(("tensor_parallel_size",), "tp", count),
        Key(("context_parallel_size", "sequence_parallel_degree"), "cp", count),
        Key(("dp_shard_size", "dp_replicate_size"), matters="devices that share the model", harmless=(1,)),
        Key(("rl",), "_rl"),
        Key(("precompute_ref_log_probs",), "_precomputed", truth),
        Key(("dpo_use_liger_kernel",), matters="a loss of pairs that makes no logits"),
        Key(("dpo_padding_free",), matters="pairs without padding"),
        Key(("dpo_use_weighting",), matters="weights of pairs, made from all logits"),
        Key(("dpo_loss_type",), matters="the loss of pairs: answered as sigmoid",
            harmless=(*SIGMOID, *([kind] for kind in SIGMOID))),
        Key(("rl_adapter_ref_model",), matters="a reference beside the adapter"),
        Key(("reward_model", "process_reward_model"), "_reward", truth),
        Key(("torch_compile",), "compile", _compiles),
        *(Key((name,), f"_{name}", truth) for name in KERNELS),
        Key(("trust_remote_code",), "_remote", truth),
        Key(("plugins",), "_plugins", texts),
        Key(("cut_cross_entropy",), "_cut", truth),
        Key(("expert_parallel_size",), "ep", count),
        Key(("chunked_cross_entropy",), matters="a loss by chunks: answered with all logits at once"),
        Key(("activation_offloading", "layer_offloading"), matters="tensors go to the host"),
        Key(("selective_checkpointing",), matters="what checkpoints keep"),
        Key(("unfrozen_parameters",), matters="which parameters are trained"),
        Key(("freeze_mm_modules",), matters="which parameters are trained"),
        Key(("tiled_mlp",), matters="feed-forward blocks run in tiles"),
        Key(("flash_attn_cross_entropy", "flash_attn_fuse_mlp", "flash_optimum"), matters="fused kernels"),
        Key(("embeddings_skip_upcast", "fp32_norms", "fp32_norm_classes"), matters="formats of embeddings and norms"),
        Key(("fp8", "qat", "quantization", "gptq", "model_quantization_config"), matters="formats of weights"),
        Key(("lora_target_parameters", "peft_layers_to_transform", "lora_rank_pattern", "peft_layer_replication",
             "peft_trainable_token_indices", "peft_autocast_adapter_dtype", "peft"), matters="what adapters there are"),
        Key(("relora", "loftq_config"), matters="how adapters are made"),
        Key(("resize_token_embeddings_to_32x", "tokens", "shrink_embeddings"), matters="rows of the vocabulary"),
        Key(("neftune_noise_alpha",), matters="noise as large as the embedding's output"),
        Key(("optim_target_modules",), matters="which modules the optimizer projects", harmless=(["attn", "mlp"],)),
        Key(("optim_args",), "_optim_args"),
        Key(("qgalore_rank",), "_rank", count),
        Key(("qgalore_proj_quant",), matters="the projection in 16 bit", harmless=(True,)),
        Key(("qgalore_proj_group_size",), matters="scales of the projection", harmless=(256,)),
        Key(("torch_empty_cache_steps",), "empty_cache", every_step),
        Key(("gc_steps",), matters="the allocator's cache is given back now and then"),
        Key(("max_memory", "gpu_memory_limit", "lora_on_cpu", "device_map"), matters="where weights lie"),
        Key(("auto_find_batch_size",), matters="the batch is halved until it fits"),
        Key(("quantize_moe_experts", "experts_implementation"), matters="how experts are stored and run"),
        Key(("use_pose", "batch_flattening"), matters="how batches are made"),
        Key(("multipack_real_batches",), "_real", truth),
        Key(("num_labels",), matters="a classifier's head"),
        Key(("trainer_cls",), matters="another trainer"),
        Key(("bnb_config_kwargs",), matters="how weights are packed"),
        Key(("vllm", "trl"), matters="generation beside training"),
    ),
    inert=(
        "qgalore_*",
        "base_model_config", "base_model_ignore_patterns", "revision_of_model", "cls_model_config", "model_type",
        "tokenizer_*", "processor_*", "is_*_derived_model", "use_kernels", "output_dir", "hub_*",
        "save_*", "saves_per_epoch", "bos_token", "eos_token", "pad_token", "unk_token", "special_tokens",
        "additional_special_tokens", "datasets", "test_datasets", "dataset_*", "shuffle_*", "pretraining_dataset",
        "skip_prepare_dataset", "num_dataset_shards_to_save", "dataloader_*", "accelerator_config", "push_*",
        "hf_use_auth_token", "device", "world_size", "local_rank", "seed", "ddp*", "do_*", "eval_*", "evals_per_epoch",
        "metric_for_best_model", "greater_is_better", "loss_watchdog_*", "gc_collect_steps", "tf32",
        "excess_length_strategy", "min_sample_len", "max_prompt_len",
        "sample_packing_*", "pad_to_multiple_of", "curriculum_sampling", "streaming*", "max_steps", "warmup_*",
        "logging_steps", "early_stopping_patience", "load_best_model_at_end", "use_*", "profiler_*", "include_*",
        "lora_alpha", "lora_fan_in_fan_out", "lora_model_dir", "loraplus_*", "lora_rank_alpha", "merge_*", "wandb_*",
        "mlflow_*", "comet_*", "trackio_*", "swanlab_*", "otel_*", "learning_rate", "embedding_lr*", "weight_decay",
        "lr_*", "cosine_*", "adam_*", "max_grad_norm", "num_epochs", "train_on_inputs", "group_by_length",
        "chat_template*", "eot_tokens", "default_system_message", "val_set_size", "resume_from_checkpoint",
        "auto_resume_from_checkpoints", "strict", "fix_untrained_tokens", "added_tokens_overrides", "low_cpu_mem_usage",
        "mean_resizing_embeddings", "torch_compile_*", "flex_attn_compile_kwargs", "remove_unused_columns",
        "rl_beta", "orpo_alpha", "dpo_*", "kto_*", "simpo_gamma", "cpo_alpha", "center_rewards_coefficient",
        "fsdp_version", "fsdp_final_state_dict_type", "deepcompile", "heads_k_stride", "ring_attn_func", "axolotl_*",
        "lora_alpha_pattern", "eval_batch_size", "bench_*", "generate_samples", "generation_*", "logging_*",
        "lr_groups",
        "debug", "resume", "unsloth_*", "pretrain_*",
    ),
)  # fmt: skip
