"""unsloth's own command and config.

Reference: https://github.com/unslothai/unsloth/blob/v0.1.801-beta/ (unsloth-cli.py, unsloth_cli/config.py,
unsloth/models/llama.py ``get_peft_model``)
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.launch.training import Config, Key, Settled
from tonnage.launch.training._trainer import INERT, KEYS, autocast, liger, spread, stepped
from tonnage.launch.training._values import DTYPES, count, modules, one_of, share, text, truth

TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _finish(said: dict[str, Any]) -> Settled:
    # The command packs where it is told to; the config does unless it is told not to.
    command = said.get("_program") == "unsloth-cli.py"
    unmodelled = [*stepped(said), *liger(said), *spread(said)]
    kind, four = said.pop("_kind", "lora"), said.pop("_four", not command)
    dtype = said.pop("_dtype", None)
    dtype = "bf16" if dtype in (None, "auto") else dtype
    half = autocast(said) or (dtype if dtype != "fp32" else None)
    said["dtype"] = dtype
    said["precision"] = f"{half}-autocast" if half else "fp32"
    rank, targets = said.pop("_rank", 16 if command else 64), said.pop("_targets", TARGETS)
    dropout, rslora, dora = said.pop("_dropout", 0.0), said.pop("_rslora", False), said.pop("_dora", False)
    if kind == "lora":
        said |= {
            "lora_rank": rank,
            "lora_targets": targets,
            "lora_dropout": dropout,
            "quant": "nf4-dq" if four else None,
        }
        said["adapter"] = "dora" if dora else "rslora" if rslora else "lora"
        if four:
            said["kbit_prepared"] = False
    said.pop("_reentrant", None)
    way = str(said.pop("_recompute", "unsloth")).lower()
    said["recompute"] = "none" if way in ("none", "false", "no") else "unsloth" if way == "unsloth" else "full"
    said.setdefault("batch", 2)
    said.setdefault("accumulate", 4)
    said.setdefault("seq", 2048)
    said.setdefault("optimizer", "adamw-8bit")
    return Settled(said, tuple(unmodelled), ())


CONFIG: Final = Config(
    stack="unsloth",
    reference="unsloth v0.1.801-beta",
    programs=(("unsloth-cli.py",), ("unsloth", "train")),
    file="--config",
    flags=True,
    finish=_finish,
    marks=(frozenset(["training.load_in_4bit"]), frozenset(["training.training_type"]), frozenset(["lora.lora_r"])),
    keys=(
        Key(("model", "model_name"), "_model", text),
        Key(("training.training_type", "training_type"), "_kind", one_of({"lora": "lora", "full": "full"})),
        Key(("training.max_seq_length", "max_seq_length"), "seq", count),
        Key(("training.load_in_4bit", "load_in_4bit"), "_four", truth),
        Key(("training.batch_size",), "batch", count),
        Key(("training.gradient_accumulation_steps",), "accumulate", count),
        Key(("training.gradient_checkpointing", "use_gradient_checkpointing"), "_recompute"),
        Key(("lora.lora_r", "r", "lora_r"), "_rank", count),
        Key(("lora.lora_dropout", "lora_dropout"), "_dropout", share),
        Key(("lora.target_modules", "target_modules"), "_targets", modules),
        Key(("lora.use_rslora", "use_rslora"), "_rslora", truth),
        Key(("lora.use_dora", "use_dora"), "_dora", truth),
        Key(("lora.use_loftq", "loftq_config"), matters="how adapters are made"),
        Key(("bias",), matters="biases are trained", harmless=("none",)),
        Key(("lora.vision_all_linear",), matters="adapters of the vision tower"),
        Key(("dtype",), "_dtype", one_of(DTYPES)),
        Key(("lora.finetune_*",), matters="which modules have adapters", harmless=(True,)),
        *KEYS,
    ),
    inert=(
        *INERT, "data", "logging", "training.output_dir", "training.num_epochs", "training.learning_rate",
        "training.warmup_steps", "training.max_steps", "training.save_steps", "training.weight_decay",
        "training.random_seed", "training.packing", "training.train_on_completions", "lora.lora_alpha", "lora_alpha",
        "random_state", "dataset", "packing", "save_*", "push_model", "quantization*", "hub_*", "raw_text_file",
        "chunk_size", "stride",
    ),
)  # fmt: skip
