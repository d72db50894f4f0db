"""TRL's supervised fine-tuning: ``SFTConfig``, ``ModelConfig`` and its scripts' flags in one file.

Reference: https://github.com/huggingface/trl/blob/v1.9.0/trl/ (trainer/sft_config.py, base_config.py, model_config.py,
sft_trainer.py, trainer/utils.py ``create_model_from_path``, scripts/sft.py)
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.errors import InputError
from tonnage.launch.training import Config, Key, Settled
from tonnage.launch.training._preferences import SIGMOID, preferring
from tonnage.launch.training._trainer import INERT, KEYS, again, attention, autocast, flattened, liger, spread, stepped
from tonnage.launch.training._values import DTYPES, count, modules, one_of, share, text, texts, truth

BATCH: Final = 8
"""``per_device_train_batch_size``."""
LENGTH: Final = 1024
"""``max_length``."""
PREFERENCES: Final = ("dpo", "kto")
"""Programs whose objective the config tells all of."""
METHODS: Final = ("grpo", "rloo", "reward", "ppo", "orpo", "cpo", "online_dpo", "gkd")


def _finish(said: dict[str, Any]) -> Settled:
    told: list[str] = []
    unmodelled = [*stepped(said), *liger(said), *spread(said)]
    program = str(said.get("_program", "sft")).removesuffix(".py")
    aim = next((name for name in PREFERENCES if program.startswith(name)), None)
    if aim is not None:
        told += preferring(said, aim)
    elif any(program.startswith(name) for name in METHODS):
        unmodelled.append(f"{program}: answered as supervised fine-tuning; its reference model, pairs and generation")
    half = autocast(said)
    given = said.pop("_dtype", None)
    loaded = "fp32" if given is None else None if given == "auto" else given
    quantized = _quantized(said)
    if said.pop("_peft", False):
        _adapter(said)
    else:
        for key in ("lora_rank", "_dropout", "lora_targets", "modules_to_save", "_rslora", "_dora"):
            said.pop(key, None)
    if quantized is not None and "lora_rank" not in said:
        raise InputError(
            "load_in_4bit and load_in_8bit train adapters, and use_peft is off", key="use_peft", hint="use_peft: true"
        )
    # SFTConfig turns bf16 on where neither format is named.
    half = half or ("bf16" if said.pop("_full", None) is None else None)
    if loaded == half or loaded is None:
        said["precision"] = f"{half}-autocast" if half else None
    elif loaded == "fp32":
        said["precision"] = f"{half}-mixed" if half else "fp32"
    said["dtype"] = loaded
    if quantized is not None:
        said["quant"] = quantized
        said.setdefault("recompute", "full")
    said["recompute"] = again(said, True)
    said.setdefault("batch", BATCH)
    length = said.pop("_length", LENGTH)
    if length:
        said["seq"] = length
    said.pop("_precomputed", None)
    packed, strategy, flat = said.pop("_packing", False), said.pop("_strategy", "bfd"), said.pop("_flat", False)
    if (packed and strategy != "wrapped") or flat:
        told += flattened(said)
    if flat and not packed:
        told.append("padding_free without packing: max_length is not enforced, --seq is a text's mean length")
    elif not packed and length:
        told.append(f"batches are padded to their longest sample: at most the {length:,} tokens that are answered for")
    return Settled(said, tuple(unmodelled), tuple(told))


def _quantized(said: dict[str, Any]) -> str | None:
    four, eight = said.pop("_four", False), said.pop("_eight", False)
    nested, kind = said.pop("_nested", False), said.pop("_kind", "nf4")
    if four and eight:
        raise InputError("load_in_4bit and load_in_8bit are both true", key="load_in_4bit", hint="leave one out")
    if eight:
        return "int8"
    return f"{kind}{'-dq' if nested else ''}" if four else None


def _adapter(said: dict[str, Any]) -> None:
    said.setdefault("lora_rank", 16)
    said["lora_dropout"] = said.pop("_dropout", 0.05)
    said["adapter"] = "dora" if said.pop("_dora", False) else "rslora" if said.pop("_rslora", False) else "lora"
    said.pop("_dora", None), said.pop("_rslora", None)


def _length(value: Any, key: str) -> int:
    return count(value, key)


CONFIG: Final = Config(
    stack="trl",
    reference="trl v1.9.0",
    programs=(
        ("trl", "sft"), ("trl", "dpo"), ("trl", "grpo"), ("trl", "kto"), ("trl", "reward"), ("trl", "rloo"),
        ("sft.py",), ("trl.scripts.sft",), ("dpo.py",), ("kto.py",), ("grpo.py",),
    ),
    file="--config",
    flags=True,
    finish=_finish,
    fields=("model_init_kwargs", "fsdp_config", "deepspeed", "dataset_kwargs", "lr_scheduler_kwargs",
            "liger_kernel_config", "gradient_checkpointing_kwargs"),
    marks=(
        frozenset(["model_name_or_path", "use_peft"]),
        frozenset(["model_name_or_path", "dataset_name"]),
        frozenset(["model_name_or_path", "datasets"]),
        frozenset(["packing", "max_length"]),
    ),
    keys=(
        Key(("model_name_or_path",), "_model", text),
        Key(("dtype", "torch_dtype"), "_dtype", one_of(DTYPES)),
        Key(("attn_implementation",), "attention", attention),
        Key(("use_peft",), "_peft", truth),
        Key(("lora_r",), "lora_rank", count),
        Key(("lora_dropout",), "_dropout", share),
        Key(("lora_target_modules",), "lora_targets", modules),
        Key(("lora_modules_to_save",), "modules_to_save", texts),
        Key(("use_rslora",), "_rslora", truth),
        Key(("use_dora",), "_dora", truth),
        Key(("load_in_4bit",), "_four", truth),
        Key(("load_in_8bit",), "_eight", truth),
        Key(("use_bnb_nested_quant",), "_nested", truth),
        Key(("bnb_4bit_quant_type",), "_kind", one_of({"nf4": "nf4", "fp4": None})),
        Key(("max_length", "max_seq_length"), "_length", _length),
        Key(("packing",), "_packing", truth),
        Key(("packing_strategy",), "_strategy", text),
        Key(("padding_free",), "_flat", truth),
        Key(("loss_type",), matters="what computes the loss: answered as nll, or a sigmoid of pairs",
            harmless=("nll", "chunked_nll", "kto", *SIGMOID, *([kind] for kind in SIGMOID))),
        Key(("precompute_ref_log_probs",), "_precomputed", truth),
        Key(("use_weighting",), matters="weights of pairs, made from all logits"),
        Key(("activation_offloading",), matters="saved activations go to the host"),
        Key(("model_init_kwargs",), matters="how the model is loaded"),
        Key(("lora_target_parameters",), matters="parameters with adapters"),
        Key(("bnb_4bit_quant_storage",), matters="the type that packed weights are stored in"),
        Key(("router_aux_loss_coef",), matters="logits of the routers are kept", harmless=(0, 0.0, 0.001)),
        Key(("ignore_bias_buffers",), matters="which buffers are kept"),
        *KEYS,
    ),
    inert=(
        *INERT, "model_revision", "trust_remote_code", "lora_alpha", "lora_task_type", "dataset_*", "datasets",
        "datasets.*", "streaming", "test_split_size", "chat_template_path", "eos_token", "pad_token",
        "truncation_mode", "shuffle_dataset", "pad_to_multiple_of", "eval_packing",
        "completion_only_loss", "assistant_only_loss", "use_bnb_nested_quant", "ignore_bias_buffers", "env", "env.*",
        "num_proc",
    ),
)  # fmt: skip
