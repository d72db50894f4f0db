"""litgpt's YAML, and ``litgpt finetune_lora org/name --config FILE --train.micro_batch_size 1``.

Reference: https://github.com/Lightning-AI/litgpt/blob/v0.5.13/litgpt/ (finetune/lora.py, finetune/full.py, pretrain.py,
args.py, utils.py ``instantiate_bnb_optimizer``)
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.errors import InputError, UnsupportedError
from tonnage.launch.training import Config, Key, Settled
from tonnage.launch.training._values import count, one_of, share, text, truth

PRECISIONS: Final = {
    "bf16-true": "bf16", "bf16-mixed": "bf16-mixed", "32-true": "fp32", "16-true": "fp16", "16-mixed": "fp16-mixed",
}  # fmt: skip
PACKS: Final = {
    "bnb.nf4": "nf4", "bnb.nf4-dq": "nf4-dq", "bnb.fp4": None, "bnb.fp4-dq": None, "bnb.int8-training": None,
    "bnb.int8": None,
}  # fmt: skip
OPTIMIZERS: Final = {
    "AdamW": "adamw-foreach", "torch.optim.AdamW": "adamw-foreach", "Adam": "adamw-foreach", "SGD": "sgd",
    "torch.optim.SGD": "sgd", "GaLoreAdamW": None, "bitsandbytes.optim.PagedAdamW": "paged-adamw",
}  # fmt: skip
PARTS: Final = ("query", "key", "value", "projection", "mlp", "head")
DEFAULT: Final = {"query": True, "value": True}
PROGRAMS: Final = ("finetune", "finetune_lora", "finetune_full", "finetune_adapter", "finetune_adapter_v2", "pretrain")


def model(value: Any, key: str) -> str:
    """The repository that a checkpoint's folder is named after.

    >>> model("checkpoints/meta-llama/Llama-3.1-8B", "checkpoint_dir")
    'meta-llama/Llama-3.1-8B'
    """
    parts = [part for part in text(value, key).replace("\\", "/").split("/") if part not in ("", ".", "checkpoints")]
    return "/".join(parts[-2:])


def _finish(said: dict[str, Any]) -> Settled:
    unmodelled: list[str] = []
    program = said.pop("_program", None)
    lora = any(key in said for key in (*(f"_{p}" for p in PARTS), "lora_rank")) or program == "finetune_lora"
    lora = lora and program not in ("finetune_full", "pretrain")
    if program in ("finetune_adapter", "finetune_adapter_v2"):
        raise UnsupportedError(f"litgpt {program} is not modelled yet", key="from", value=program)
    if "_positional" in said:
        said["_model"] = model(said.pop("_positional"), "checkpoint_dir")
    anew = said.pop("_anew", None)
    if anew is not None:
        said["_model"], program = anew, "pretrain"
    precision, quant = said.pop("_precision", None), said.get("quant")
    if quant is not None and precision is not None and "mixed" in precision:
        raise InputError(
            f"quantize with precision = {precision}, which litgpt refuses", key="precision", value=precision,
            hint="precision: bf16-true",
        )  # fmt: skip
    if quant is not None and not lora:
        raise InputError("quantize is for adapters: the full model is trained in its own format", key="quantize")
    said["precision"] = precision or "bf16-mixed"
    if lora and "mixed" in said["precision"]:
        # All weights are fp32: what is frozen is not loaded in 16 bit.
        said["dtype"] = "fp32"
    elif "mixed" not in said["precision"]:
        said["dtype"] = said["precision"]
    chosen = [part for part in PARTS if said.pop(f"_{part}", DEFAULT.get(part, False))]
    if lora:
        said.setdefault("lora_rank", 8)
        said.setdefault("lora_dropout", 0.05)
        if not chosen:
            raise InputError("every lora_* switch is off: nothing is trained", key="lora_query")
        said["lora_targets"], said["adapter"] = tuple(chosen), "lora"
    else:
        said.pop("lora_rank", None), said.pop("lora_dropout", None)
    if quant is not None and said.get("optimizer") in (None, "adamw-foreach"):
        said["optimizer"] = "paged-adamw"
    said.setdefault("optimizer", "adamw-foreach")
    _batches(said, 4 if program == "pretrain" else 1)
    told = []
    if program != "pretrain":
        most = f"at most the {said['seq']:,} tokens answered for" if "seq" in said else "which --seq names"
        told.append(f"batches are padded to their longest sample: {most}")
    return Settled(said, tuple(unmodelled), tuple(told))


def _batches(said: dict[str, Any], micro: int) -> None:
    batch, devices = said.setdefault("batch", micro), said.pop("_devices", 1)
    devices = 1 if devices == "auto" else int(devices)
    overall = said.pop("_global", None)
    if overall is not None:
        each = overall // devices
        if each < batch:
            raise InputError(
                f"train.global_batch_size = {overall} over {devices} devices is below micro_batch_size = {batch}",
                key="train.global_batch_size", value=overall,
            )  # fmt: skip
        said["accumulate"] = each // batch
    nodes = said.pop("_nodes", 1)
    if devices * nodes > 1:
        said["gpus"], said["sharding"] = devices * nodes, "fsdp"


CONFIG: Final = Config(
    stack="litgpt",
    reference="litgpt v0.5.13",
    programs=(*(("litgpt", name) for name in PROGRAMS), ("lit_gpt/finetune/lora.py",), ("finetune/lora.py",)),
    file="--config",
    flags=True,
    finish=_finish,
    fields=("data", "model_config"),
    marks=(
        frozenset(["checkpoint_dir", "train.*"]), frozenset(["lora_r", "lora_query"]),
        frozenset(["train.micro_batch_size"]), frozenset(["model_name", "train.*"]),
        frozenset(["checkpoint_dir", "precision"]),
    ),
    keys=(
        Key(("checkpoint_dir", "repo_id"), "_model", model),
        Key(("model_name",), "_anew", model),
        Key(("precision",), "_precision", one_of(PRECISIONS)),
        Key(("quantize",), "quant", one_of(PACKS)),
        Key(("devices",), "_devices", lambda v, key: v if v == "auto" else count(v, key)),
        Key(("num_nodes",), "_nodes", count),
        Key(("lora_r",), "lora_rank", count),
        Key(("lora_dropout",), "lora_dropout", share),
        *(Key((f"lora_{part}",), f"_{part}", truth) for part in PARTS),
        Key(("train.micro_batch_size",), "batch", count),
        Key(("train.global_batch_size",), "_global", count),
        Key(("train.max_seq_length",), "seq", count),
        Key(("train.tie_embeddings",), matters="whether the head is the embedding"),
        Key(("optimizer", "optimizer.class_path"), "optimizer", one_of(OPTIMIZERS)),
        Key(("optimizer.init_args.fused",), matters="how the optimizer steps"),
        Key(("optimizer.init_args.momentum",), matters="a momentum of every parameter", harmless=(0, 0.0)),
        Key(("model_config",), matters="the model's own dimensions"),
        Key(("train.max_norm",), "_norm", lambda *_: None),
    ),
    inert=(
        "out_dir", "lora_alpha", "data", "train.*", "eval", "log", "logger_name", "seed", "access_token", "resume",
        "optimizer.init_args.*", "initial_checkpoint_dir", "tokenizer_dir", "wandb_*",
    ),
)  # fmt: skip
