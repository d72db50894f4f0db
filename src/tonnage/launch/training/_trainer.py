"""Keys of ``TrainingArguments``, which transformers, TRL and LLaMA-Factory share.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/training_args.py, and the keys that
release 4 had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.errors import InputError, UnsupportedError
from tonnage.launch.training import Key
from tonnage.launch.training._values import count, every_step, nests, one_of, text, truth, whole

LIGER_PARTS: Final = {"rms_norm": ("rms_norm",), "rope": ("rope",), "swiglu": ("swiglu", "geglu")}
"""What ``--kernels liger:...`` names, with Liger's own switches for it."""
LIGER_LOSSES: Final = ("fused_linear_cross_entropy", "cross_entropy")
LIGER_INERT: Final = ("layer_norm", "relu_squared")
"""Switches of models that see, or that are not modelled with Liger's kernels."""

OPTIMIZERS: Final[dict[str, str | None]] = {
    "adamw_torch": "adamw-foreach", "adamw_torch_fused": "adamw-fused", "adamw_hf": "adamw-foreach",
    "adafactor": "adafactor", "sgd": "sgd", "adagrad": "adagrad", "rmsprop": "rmsprop",
    "adamw_bnb_8bit": "adamw-8bit", "adamw_8bit": "adamw-8bit", "paged_adamw_8bit": "paged-adamw-8bit",
    "paged_adamw_32bit": "paged-adamw", "paged_adamw": "paged-adamw", "lion_8bit": "lion-8bit",
    "adamw_torch_8bit": "adamw-8bit-ao", "adamw_torch_4bit": "adamw-4bit-ao", "schedule_free_adamw": "schedule-free",
    "galore_adamw": "galore", "muon": "muon", "ademamix": "ademamix", "ademamix_8bit": "ademamix-8bit",
    "paged_ademamix_32bit": "paged-ademamix", "paged_ademamix_8bit": "paged-ademamix-8bit", "lion_32bit": "lion-bnb",
    "paged_lion_32bit": "paged-lion", "paged_lion_8bit": "paged-lion-8bit", "rmsprop_bnb": "rmsprop-bnb",
    "rmsprop_bnb_32bit": "rmsprop-bnb", "rmsprop_bnb_8bit": "rmsprop-8bit", "lomo": "lomo", "adalomo": "adalomo",
    "grokadamw": "grokadamw", "schedule_free_radam": "schedule-free-radam", "schedule_free_sgd": "schedule-free-sgd",
    "apollo_adamw": "apollo", "stable_adamw": "stable-adamw", "galore_adamw_8bit": "galore-8bit",
    "galore_adamw_layerwise": "galore layerwise", "galore_adamw_8bit_layerwise": "galore-8bit layerwise",
    "apollo_adamw_layerwise": "apollo layerwise",
    **dict.fromkeys((
        "adamw_torch_xla", "adamw_torch_npu_fused", "adamw_apex_fused", "adamw_anyprecision", "galore_adafactor",
        "galore_adafactor_layerwise",
    )),
}  # fmt: skip
"""``OptimizerNames``, as a workload has them; what is layerwise steps in the backward pass (``stepped``)."""

ATTENTION: Final[dict[str, str | None]] = {
    "eager": "eager", "sdpa": "sdpa", "flash_attention_2": "flash_attention_2", "flash_attention_3": "flash",
    "kernels-community/flash-attn2": "flash_attention_2", "kernels-community/flash-attn3": "flash",
    "kernels-community/vllm-flash-attn3": "flash", "flex_attention": "flex", "xformers": None, "sage": None,
    "auto": "auto",
}  # fmt: skip

NESTED: Final = ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")
"""Whether checkpoints run a backward pass of their own."""
KEYS: Final = (
    Key(("per_device_train_batch_size", "per_gpu_train_batch_size"), "batch", count),
    Key(("gradient_accumulation_steps",), "accumulate", count),
    Key(("optim",), "optimizer", one_of(OPTIMIZERS)),
    Key(("bf16",), "_bf16", truth),
    Key(("fp16",), "_fp16", truth),
    Key(("gradient_checkpointing", "activation_checkpointing"), "_recompute", truth),
    Key(NESTED, "_reentrant", nests),
    Key(("use_liger_kernel",), "_liger", truth),
    Key(("torch_compile",), "compile", truth),
    Key(("fsdp",), "_fsdp"),
    Key(("fsdp_config", "fsdp_transformer_layer_cls_to_wrap"), "_fsdp_config"),
    Key(("deepspeed",), "_deepspeed"),
    Key(("liger_kernel_config",), "_liger_config"),
    Key(("parallelism_config",), matters="degrees of parallelism"),
    Key(("optim_target_modules",), matters="which modules the optimizer projects"),
    Key(("optim_args",), "_optim_args"),
    Key(("neftune_noise_alpha",), matters="noise as large as the embedding's output"),
    Key(("label_smoothing_factor",), matters="a second loss over all logits", harmless=(0, 0.0)),
    Key(("auto_find_batch_size",), matters="the batch is halved until it fits"),
    Key(("torch_empty_cache_steps",), "empty_cache", every_step),
    Key(("use_cpu", "no_cuda"), matters="the step runs on the host"),
    Key(("group_by_length",), matters="batches of like lengths: the longest come together"),
)

INERT: Final = (
    "output_dir", "overwrite_output_dir", "do_train", "do_eval", "do_predict", "eval_*", "evaluation_strategy",
    "per_device_eval_batch_size", "prediction_loss_only", "learning_rate", "weight_decay", "adam_*", "max_grad_norm",
    "num_train_epochs", "max_steps", "lr_*", "warmup_*", "log_*", "logging_*", "save_*", "seed", "data_seed",
    "full_determinism", "tf32", "bf16_full_eval", "fp16_full_eval", "fp16_opt_level", "fp16_backend",
    "half_precision_backend", "local_rank", "ddp_*", "debug", "dataloader_*", "past_index", "run_name", "disable_tqdm",
    "remove_unused_columns", "label_names", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
    "ignore_data_skip", "accelerator_config", "length_column_name", "train_sampling_strategy", "report_to", "project",
    "trackio_*", "skip_memory_metrics", "push_to_hub*", "hub_*", "resume_from_checkpoint", "include_*",
    "batch_eval_metrics", "torch_compile_*", "use_cache", "average_tokens_across_devices", "tpu_*",
    "mp_parameters", "use_legacy_prediction_loop",
    "jit_mode_eval", "use_ipex", "dispatch_batches", "split_batches", "use_mps_device", "auto_kernels",
    "enable_jit_checkpoint", "restore_callback_states_from_checkpoint", "torchdynamo", "ray_scope", "save_on_each_node",
)  # fmt: skip
"""Evaluation, saving, logging, schedules: outside the step that is answered, or without bytes of their own."""


PROJECTING: Final = ("galore", "galore-8bit", "apollo")
PROJECTING_ARGS: Final = {"update_proj_gap": "*", "scale": "*", "proj_type": "std", "proj": "random",
                          "scale_type": "channel"}  # fmt: skip
"""Further arguments of these, and the values with which memory is what is answered."""


def stepped(said: dict[str, Any]) -> list[str]:
    """The optimizer: one for every parameter where it is layerwise, which steps it as its gradient is there; the rank
    of projections; what is left open, in words.
    """
    name, _, hooked = str(said.get("optimizer", "")).partition(" ")
    if hooked:
        said["optimizer"], said["optimizer_in_backward"] = name, True
    given = said.pop("_optim_args", None)
    if isinstance(given, dict):
        given = ",".join(f"{key}={value}" for key, value in given.items())
    parts = dict(part.partition("=")[::2] for part in str(given or "").replace(" ", "").split(",") if part)
    if name in PROJECTING:
        if "rank" in parts:
            said["optimizer_rank"] = count(parts.pop("rank"), "optim_args")
        parts = {key: value for key, value in parts.items() if PROJECTING_ARGS.get(key, "") not in ("*", value)}
    return [f"optim_args = {', '.join(parts)}: arguments of the optimizer"] if parts else []


def flattened(said: dict[str, Any], form: str = "flat") -> list[str]:
    """Rows of several texts, as one row or with as many as the batch has; what has to be said."""
    said["packing"] = form
    if said.get("attention") != "flash":
        return []
    said["attention"] = "flash_attention_2"
    return ["packed rows by flash-attn's third release: answered by the second"]


def again(said: dict[str, Any], default: bool) -> str:
    """How layers are computed again, by what a config says of checkpoints."""
    nested = said.pop("_reentrant", None)
    if not said.pop("_recompute", default):
        return "none"
    return "full" if nested is None else "reentrant" if nested else "non-reentrant"


def autocast(said: dict[str, Any]) -> str | None:
    """The format of autocast that ``bf16`` and ``fp16`` ask for.

    Raises:
        InputError: both are asked for.
    """
    bf16, fp16 = said.pop("_bf16", None), said.pop("_fp16", None)
    if bf16 and fp16:
        raise InputError(
            "bf16 and fp16 are both true, which the Trainer refuses", key="bf16", hint="leave one of the two out"
        )
    return "bf16" if bf16 else "fp16" if fp16 else None


def spread(said: dict[str, Any]) -> list[str]:
    """What several devices share, as keys of the workload; what is left open, in words."""
    fsdp, config, deepspeed = said.pop("_fsdp", None), said.pop("_fsdp_config", None), said.pop("_deepspeed", None)
    if fsdp and deepspeed:
        raise InputError("fsdp and deepspeed are both asked for, which the Trainer refuses", key="fsdp")
    if deepspeed:
        stage = _stage(deepspeed)
        if stage is None:
            return [f"deepspeed = {str(deepspeed)[:50]}: its stage and what it offloads are not read"]
        if stage:
            said["sharding"] = f"zero-{stage}"
    elif fsdp and fsdp not in ("false", "no"):
        words = fsdp if isinstance(fsdp, list) else str(fsdp).split()
        said["sharding"] = "hsdp" if "hybrid_shard" in words else "fsdp"
        if "offload" in words:
            raise UnsupportedError("fsdp with offload is not modelled yet", key="fsdp", value=str(fsdp))
    elif config:
        return []
    return []


def _stage(deepspeed: Any) -> int | None:
    """The ZeRO stage of a DeepSpeed config, or that its file name tells."""
    if isinstance(deepspeed, dict):
        own = deepspeed.get("zero_optimization") or {}
        return whole(own.get("stage", 0), "zero_optimization.stage") if isinstance(own, dict) else None
    if isinstance(deepspeed, str):
        import os

        if os.path.isfile(deepspeed):
            from tonnage.launch.training._files import mapping

            return _stage(mapping(deepspeed))
        name = deepspeed.lower().replace("-", "").replace("_", "")
        found = [n for n in (1, 2, 3) if f"z{n}" in name or f"zero{n}" in name or f"stage{n}" in name]
        return found[0] if len(found) == 1 and "offload" not in name else None
    return None


def attention(value: Any, key: str) -> str | None:
    """``attn_implementation``; None for what the model prefers.

    >>> attention("flash_attention_2", "attn_implementation")
    'flash_attention_2'
    """
    found = one_of(ATTENTION)(text(value, key), key)
    return None if found == "auto" else str(found)


def liger(said: dict[str, Any]) -> list[str]:
    """``use_liger_kernel`` with what ``liger_kernel_config`` says; what that leaves out is Liger's own choice.

    Raises:
        InputError: both of Liger's losses.
    """
    on, config = said.pop("_liger", False), said.pop("_liger_config", None)
    if not on:
        return []
    said["kernels"] = "liger"
    if not config:
        return []
    switches = config if isinstance(config, Mapping) else {}
    known = {*LIGER_LOSSES, *LIGER_INERT, *(name for names in LIGER_PARTS.values() for name in names)}
    if not switches or set(switches) - known or not all(isinstance(v, bool) for v in switches.values()):
        return [f"liger_kernel_config = {str(config)[:60]}: answered with Liger's own choice"]
    fused, apart = (switches.get(name) for name in LIGER_LOSSES)
    if apart and fused is not False:
        raise InputError(
            f"liger_kernel_config: {LIGER_LOSSES[1]} beside {LIGER_LOSSES[0]}, which Liger refuses",
            key="liger_kernel_config", value=str(config)[:60], hint=f"{LIGER_LOSSES[0]}: false",
        )  # fmt: skip
    if apart or fused is False:
        said["loss"] = "liger" if apart else "full"
    parts = [part for part, names in LIGER_PARTS.items() if all(switches.get(name, True) for name in names)]
    if not parts:
        said.setdefault("loss", "fused")
        said["kernels"] = None
    elif len(parts) < len(LIGER_PARTS):
        said["kernels"] = f"liger:{'+'.join(parts)}"
    return []
