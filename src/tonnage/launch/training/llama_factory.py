"""LLaMA-Factory's YAML or JSON.

Reference: https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/src/llamafactory/ (hparams/ for keys and defaults,
model/adapter.py for what is cast to fp32, model/model_utils/checkpointing.py, hparams/parser.py)
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.errors import InputError, UnsupportedError
from tonnage.launch.training import Config, Key, Settled
from tonnage.launch.training._preferences import SIGMOID, preferring
from tonnage.launch.training._trainer import INERT, KEYS, again, autocast, flattened, liger, spread, stepped
from tonnage.launch.training._values import count, one_of, share, text, texts, truth

BATCH: Final = 8
LENGTH: Final = 2048
"""``cutoff_len``."""
EIGHT: Final = 8
"""Tokens of which rows are a multiple (``pad_to_multiple_of``)."""
PROJECTED: Final = 16
"""``galore_rank`` and ``apollo_rank``."""
STAGES: Final = {"pt": "pt", "sft": "sft", "rm": "rm", "ppo": "ppo", "dpo": "dpo", "kto": "kto"}
TYPES: Final = {"lora": "lora", "full": "full", "freeze": "freeze", "oft": None}
FROZEN: Final = {
    "vision": ("freeze_vision_tower", True), "projector": ("freeze_multi_modal_projector", True),
    "language": ("freeze_language_model", False),
}  # fmt: skip
"""Parts of a model that sees or hears: what freezes them, and whether that is the default."""
ATTENTION: Final = {"auto": "sdpa", "disabled": "eager", "sdpa": "sdpa", "fa2": "flash_attention_2", "fa3": "flash"}


def _finish(said: dict[str, Any]) -> Settled:
    unmodelled, told = [*stepped(said), *liger(said), *spread(said)], []
    stage, kind = said.pop("_stage", "sft"), said.pop("_kind", "lora")
    pairs = said.pop("_pairs", "sigmoid")
    aim = {"orpo": "orpo", "simpo": "simpo"}.get(pairs, "dpo") if stage == "dpo" else "kto" if stage == "kto" else ""
    if aim:
        told += preferring(said, aim)
    elif stage not in ("sft", "pt"):
        unmodelled.append(f"stage = {stage}: answered as supervised fine-tuning, without reference, reward and pairs")
    half, pure = autocast(said), said.pop("_pure", False)
    if pure and half:
        told.append("pure_bf16 and mixed precision are both on: weights stay in 16 bit, and autocast runs")
    loaded = "bf16" if pure or half == "bf16" else "fp16" if half == "fp16" else "fp32"
    quant = _quantized(said, kind)
    if kind == "lora":
        _adapter(said)
    else:
        for key in ("lora_rank", "lora_dropout", "lora_targets", "modules_to_save", "_dora", "_rslora"):
            said.pop(key, None)
    if kind == "freeze":
        raise UnsupportedError(
            "finetuning_type = freeze: its last layers are known with the model only", key="finetuning_type",
            value="freeze", hint="--freeze-layers 0-29 without --from",
        )  # fmt: skip
    if any(f"_frozen {part}" in said for part in FROZEN):
        frozen = tuple(part for part, (_, usual) in FROZEN.items() if said.pop(f"_frozen {part}", usual))
        said["freeze"] = frozen or ("none",)
    said["dtype"] = loaded
    # What is trained is cast to fp32 unless weights are to be pure; adapters are what is trained beside a frozen model.
    if kind == "full" and half and not pure:
        said["precision"], said["dtype"] = f"{half}-mixed", "fp32"
    else:
        said["precision"] = f"{half}-autocast" if half else "bf16" if pure else "fp32"
    said["quant"] = quant
    said["_recompute"] = not said.pop("_stored", False)
    said["recompute"] = again(said, True)
    said.setdefault("batch", BATCH)
    said.setdefault("seq", LENGTH)
    said.setdefault("attention", "sdpa")
    neat, packed = said.pop("_neat", False) and stage == "sft", said.pop("_packing", False)
    if neat:
        told += _neat(said)
    if (neat or packed) and not (neat and said["attention"] == "flash_attention_2"):
        # A token more than is asked for, so that flash-attn looks at the mask, and padding (data/processor).
        said["seq"] = -(-(said["seq"] + 1) // EIGHT) * EIGHT
    elif not neat and stage != "pt":
        told.append(f"batches are padded to their longest sample: at most the {said['seq']:,} tokens answered for")
    eight = said.get("optimizer") in ("adamw-8bit", "paged-adamw-8bit")
    ranks = {name: said.pop(f"{name}_rank", PROJECTED) for name in ("_galore", "_apollo")}
    hooked = {name: said.pop(f"{name}_layerwise", False) for name in ranks}
    for key, name in (
        ("_galore", "galore-8bit" if eight else "galore"), ("_apollo", "apollo"), ("_muon", "muon"),
        ("_mini", "adam-mini"),
    ):  # fmt: skip
        if said.pop(key, False):
            said["optimizer"] = name
            if key in ranks:
                said["optimizer_rank"] = ranks[key]
                said["optimizer_in_backward"] = hooked[key] or None
    return Settled(said, tuple(unmodelled), tuple(told))


def _neat(said: dict[str, Any]) -> list[str]:
    """Packed rows whose texts do not see each other.

    Raises:
        InputError: more than one row for flash-attn.
    """
    told = flattened(said, "rows")
    if said["attention"] == "flash_attention_2" and said["batch"] > 1:
        raise InputError(
            f"neat_packing with flash attention and per_device_train_batch_size = {said['batch']}, which LLaMA-Factory "
            "refuses", key="per_device_train_batch_size", value=said["batch"], hint="per_device_train_batch_size: 1",
        )  # fmt: skip
    return told


def _quantized(said: dict[str, Any], kind: str) -> str | None:
    bits, nested, fmt = said.pop("_bits", None), said.pop("_nested", True), said.pop("_type", "nf4")
    if bits is None:
        return None
    if kind != "lora":
        raise InputError(
            f"quantization_bit = {bits} and finetuning_type = {kind}: packed weights are not trained themselves",
            key="finetuning_type", value=kind, hint="finetuning_type: lora",
        )  # fmt: skip
    if bits not in (4, 8):
        raise UnsupportedError(f"quantization_bit = {bits} is not modelled", key="quantization_bit", value=bits)
    return "int8" if bits == 8 else f"{fmt}{'-dq' if nested else ''}"


def _adapter(said: dict[str, Any]) -> None:
    said.setdefault("lora_rank", 8)
    said.setdefault("lora_dropout", 0.0)
    said.setdefault("lora_targets", ("all-linear",))
    said["adapter"] = "dora" if said.pop("_dora", False) else "rslora" if said.pop("_rslora", False) else "lora"
    said.pop("_rslora", None)


def _targets(value: Any, key: str) -> tuple[str, ...]:
    found = texts(value, key)
    return ("all-linear",) if found == ("all",) else found


CONFIG: Final = Config(
    stack="llama-factory",
    reference="LLaMA-Factory v0.9.5",
    programs=(("llamafactory-cli", "train"), ("llamafactory.cli", "train"), ("lmf", "train"), ("src/train.py",)),
    flags=True,
    overrides=True,
    finish=_finish,
    fields=("fsdp_config", "deepspeed", "lr_scheduler_kwargs", "vllm_config", "sglang_config", "rope_scaling"),
    marks=(
        frozenset(["model_name_or_path", "finetuning_type"]), frozenset(["model_name_or_path", "stage", "template"]),
    ),
    keys=(
        Key(("model_name_or_path",), "_model", text),
        Key(("stage",), "_stage", one_of(STAGES)),
        Key(("pref_loss",), "_pairs", one_of({"orpo": "orpo", "simpo": "simpo", **dict.fromkeys(SIGMOID, "sigmoid")})),
        Key(("pref_ftx",), matters="a term of the next token beside that of pairs", harmless=(0, 0.0)),
        Key(("pref_bco_weight", "ld_alpha"), matters="further terms of the loss of pairs", harmless=(0, 0.0)),
        Key(("finetuning_type",), "_kind", one_of(TYPES)),
        Key(("cutoff_len",), "seq", count),
        Key(("packing",), "_packing", truth),
        Key(("neat_packing",), "_neat", truth),
        Key(("lora_rank",), "lora_rank", count),
        Key(("lora_dropout",), "lora_dropout", share),
        Key(("lora_target",), "lora_targets", _targets),
        Key(("additional_target",), "modules_to_save", texts),
        Key(("use_dora",), "_dora", truth),
        Key(("use_rslora",), "_rslora", truth),
        Key(("pure_bf16",), "_pure", truth),
        Key(("quantization_bit",), "_bits", count),
        Key(("double_quantization",), "_nested", truth),
        Key(("quantization_type",), "_type", one_of({"nf4": "nf4", "fp4": None})),
        Key(("quantization_method",), matters="how the weights are packed", harmless=("bnb", "bitsandbytes", "BNB")),
        Key(("disable_gradient_checkpointing",), "_stored", truth),
        Key(("use_reentrant_gc",), "_reentrant", truth),
        Key(("flash_attn",), "attention", one_of(ATTENTION)),
        Key(("enable_liger_kernel",), "_liger", truth),
        Key(("use_galore",), "_galore", truth),
        Key(("use_muon",), "_muon", truth),
        Key(("use_unsloth", "use_unsloth_gc"), matters="unsloth's kernels and offloaded checkpoints"),
        Key(("upcast_layernorm", "upcast_lmhead_output"), matters="formats of norms and logits"),
        Key(("use_adam_mini",), "_mini", truth),
        Key(("use_apollo",), "_apollo", truth),
        Key(("use_badam",), matters="another optimizer: answered without it"),
        Key(("use_llama_pro", "freeze_trainable_layers", "freeze_extra_modules"), matters="which layers are trained"),
        Key(("shift_attn", "mixture_of_depths", "rope_scaling"), matters="the model itself is changed"),
        Key(("pissa_init",), matters="the frozen weights become residuals"),
        Key(("adapter_name_or_path", "create_new_adapter"), matters="adapters that are there already"),
        *(Key((name,), f"_frozen {part}", truth) for part, (name, _) in FROZEN.items()),
        Key(("resize_vocab", "add_tokens", "add_special_tokens"), matters="rows of the vocabulary"),
        Key(("use_kt", "use_mca", "use_hyper_parallel"), matters="another backend"),
        Key(("use_asft_loss", "use_dft_loss", "use_eaft_loss"), matters="another loss"),
        Key(("galore_rank",), "_galore_rank", count),
        Key(("apollo_rank",), "_apollo_rank", count),
        Key(("galore_layerwise",), "_galore_layerwise", truth),
        Key(("apollo_layerwise",), "_apollo_layerwise", truth),
        Key(("galore_target", "apollo_target"), matters="the place of projections", harmless=("all",)),
        Key(("apollo_scale_type",), matters="how APOLLO scales", harmless=("channel",)),
        Key(("galore_proj_type", "apollo_proj"), matters="how projections are made", harmless=("std", "random")),
        Key(("moe_aux_loss_coef",), matters="logits of the routers are kept"),
        Key(("ref_model*", "reward_model*"), matters="further models"),
        Key(("quantization_device_map", "offload_folder"), matters="where weights lie", harmless=("offload", "auto")),
        *KEYS,
    ),
    inert=(
        *INERT, "adapter_folder", "cache_dir", "use_fast_tokenizer", "split_special_tokens",
        "new_special_tokens_config",
        "init_special_tokens", "model_revision", "low_cpu_mem_usage", "infer_*", "use_kv_cache",
        "*_hub_token", "print_param_status", "trust_remote_code", "template", "dataset*", "eval_dataset", "media_dir",
        "train_on_prompt", "mask_history", "streaming", "buffer_size", "mix_strategy", "interleave_probs",
        "overwrite_cache", "preprocessing_*", "max_samples", "ignore_pad_token_for_loss", "val_size", "tool_format",
        "default_system", "enable_thinking", "preserve_thinking", "tokenized_path", "data_shared_file_system",
        "lora_alpha", "loraplus_*", "pref_*", "dpo_*", "kto_*", "simpo_gamma", "ppo_*", "ld_alpha", "galore_*",
        "apollo_*", "badam_*", "use_swanlab", "swanlab_*", "freeze_trainable_modules", "compute_accuracy",
        "disable_shuffling", "early_stopping_steps", "plot_loss", "image_*", "video_*", "audio_*", "crop_to_patches",
        "use_audio_in_video", "export_*", "vllm_*", "sglang_*", "kt_*", "pissa_*", "predict_with_generate",
        "generation_*", "ray_*", "use_v1_kernels", "asft_alpha", "eaft_alpha", "module_dropout", "oft_*",
        "placement_strategy",
        "train_from_scratch", "resources_per_worker", "do_sample", "top_p", "top_k", "temperature", "max_new_tokens",
    ),
)  # fmt: skip
