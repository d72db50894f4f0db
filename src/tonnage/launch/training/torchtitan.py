"""torchtitan's TOML and flags.

Reference: https://github.com/pytorch/torchtitan/blob/v0.2.2/torchtitan/ (config/job_config.py for keys and defaults,
models/*/__init__.py for flavors, distributed/utils.py ``maybe_enable_amp``)
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.errors import InputError, UnsupportedError
from tonnage.launch.training import Config, Key, Settled
from tonnage.launch.training._values import count, one_of, text, truth, whole

FLAVORS: Final = {
    ("llama3", "8B"): "llama-3-8b", ("llama3", "70B"): "llama-3-70b", ("llama3", "405B"): "llama-3.1-405b",
    ("qwen3", "0.6B"): "qwen3-0.6b", ("qwen3", "1.7B"): "qwen3-1.7b", ("qwen3", "4B"): "qwen3-4b",
    ("qwen3", "8B"): "qwen3-8b", ("qwen3", "14B"): "qwen3-14b", ("qwen3", "32B"): "qwen3-32b",
    ("qwen3", "30B-A3B"): "qwen3-30b-a3b", ("qwen3", "235B-A22B"): "qwen3-235b-a22b",
    ("deepseek_v3", "671B"): "deepseek-v3", ("deepseek_v3", "16B"): "deepseek-v2-lite",
    ("deepseek_v3", "236B"): "deepseek-v2",
}  # fmt: skip
BATCH: Final = 8
LENGTH: Final = 2048
FORMATS: Final = {"bfloat16": "bf16", "float32": "fp32"}
OPTIMIZERS: Final = {"for-loop": "adamw-loop", "foreach": "adamw-foreach", "fused": "adamw-fused"}


def _finish(said: dict[str, Any]) -> Settled:
    unmodelled: list[str] = []
    told: list[str] = []
    name, flavor = said.pop("_name", "llama3"), said.pop("_flavor", None)
    said["_model"] = FLAVORS.get((name, str(flavor).removesuffix("_flex").removesuffix("_varlen")))
    flexes = str(flavor).endswith("_flex")
    if said["_model"] is None and flavor is not None:
        told.append(f"model.name = {name}, model.flavor = {flavor}: no model of the catalogue")
    kind, way = said.pop("_optimizer", "AdamW"), said.pop("_way", "fused")
    if kind not in ("Adam", "AdamW"):
        raise UnsupportedError(f"optimizer.name = {kind} is not modelled yet", key="optimizer.name", value=kind)
    said["optimizer"] = OPTIMIZERS[way]
    said.setdefault("batch", BATCH)
    said.setdefault("seq", LENGTH)
    said["precision"] = _precision(said)
    said["recompute"] = _recompute(said)
    if flexes and (name != "llama3" or said["recompute"] == "selective"):
        told.append("flex attention is answered as flash attention")
    elif flexes:
        said["attention"] = "flex"
    _spread(said, told)
    overall = said.pop("_global", -1)
    if overall > 0:
        per_step = said["batch"] * (said.get("gpus") or 1)
        if overall % per_step:
            raise InputError(
                f"training.global_batch_size = {overall} is no multiple of {per_step}: {said['batch']} sequences on "
                "each device", key="training.global_batch_size", value=overall,
            )  # fmt: skip
        if overall > per_step and (said.get("gpus") or 1) * overall == overall:
            said["accumulate"] = overall // per_step
    return Settled(said, tuple(unmodelled), tuple(told))


def _precision(said: dict[str, Any]) -> str:
    """On one device and with plain data parallelism, mixed precision is autocast."""
    dtype, mixed = said.pop("_dtype", "fp32"), said.pop("_mixed", "bf16")
    if dtype == "fp32":
        return f"{mixed}-mixed" if mixed != "fp32" else "fp32"
    if mixed == "fp32":
        raise InputError(
            "training.dtype = bfloat16 with mixed_precision_param = float32: autocast to a wider format",
            key="training.mixed_precision_param",
        )
    return "bf16-autocast"


def _recompute(said: dict[str, Any]) -> str:
    mode, option = said.pop("_mode", "selective"), str(said.pop("_option", "2"))
    if mode == "memory_budget":
        raise UnsupportedError(
            "activation_checkpoint.mode = memory_budget is torch.compile's own choice, which is not modelled",
            key="activation_checkpoint.mode", value=mode,
        )  # fmt: skip
    if mode != "selective":
        return str(mode)
    if option == "op":
        return "selective"
    if not option.isdigit() or not int(option):
        raise InputError(
            f"activation_checkpoint.selective_ac_option = {option!r}: op, or a number from 1",
            key="activation_checkpoint.selective_ac_option", value=option,
        )  # fmt: skip
    return "full" if option == "1" else f"every-{option}"


def _spread(said: dict[str, Any], told: list[str]) -> None:
    shard, replicate = said.pop("_shard", -1), said.pop("_replicate", 1)
    degrees = {key: said.pop(f"_{key}", 1) for key in ("tp", "pp", "cp", "ep")}
    said.update({key: n for key, n in degrees.items() if n > 1})
    if shard == -1:
        told.append(
            "data_parallel_shard_degree = -1 shards over as many devices as are launched: answered for the number that "
            "--gpus names, else for one"
        )
        return
    world = shard * replicate * degrees["tp"] * degrees["pp"] * degrees["cp"]
    if world > 1:
        said["gpus"] = world
        said["sharding"] = "hsdp" if shard > 1 and replicate > 1 else "fsdp" if shard > 1 else "ddp"


def _degree(value: Any, key: str) -> int:
    number = whole(value, key)
    if number == 0 or number < -1:
        raise InputError(f"{key} = {number}: -1, or a number from 1", key=key, value=number)
    return number


P: Final = "parallelism"
CONFIG: Final = Config(
    stack="torchtitan",
    reference="torchtitan v0.2.2",
    programs=(("torchtitan.train",), ("run_train.sh",), ("torchtitan/train.py",)),
    file="--job.config_file",
    flags=True,
    finish=_finish,
    marks=(
        frozenset(["model.flavor", "training.*"]), frozenset(["job.dump_folder"]),
        frozenset(["training.local_batch_size"]), frozenset(["activation_checkpoint.mode"]),
    ),
    keys=(
        Key(("model.name",), "_name", text),
        Key(("model.flavor",), "_flavor", text),
        Key(("optimizer.name",), "_optimizer", text),
        Key(("optimizer.implementation",), "_way", one_of({k: k for k in OPTIMIZERS})),
        Key(("optimizer.early_step_in_backward",), "optimizer_in_backward", lambda v, key: truth(v, key) or None),
        Key(("training.local_batch_size", "training.batch_size"), "batch", count),
        Key(("training.global_batch_size",), "_global", whole),
        Key(("training.seq_len",), "seq", count),
        Key(("training.dtype",), "_dtype", one_of(FORMATS)),
        Key(("training.mixed_precision_param",), "_mixed", one_of(FORMATS)),
        Key(("activation_checkpoint.mode",), "_mode",
            one_of({k: k for k in ("selective", "full", "none", "memory_budget")})),
        Key(("activation_checkpoint.selective_ac_option",), "_option"),
        Key((f"{P}.data_parallel_shard_degree",), "_shard", _degree),
        Key((f"{P}.data_parallel_replicate_degree",), "_replicate", count),
        Key((f"{P}.tensor_parallel_degree",), "_tp", count),
        Key((f"{P}.pipeline_parallel_degree",), "_pp", count),
        Key((f"{P}.context_parallel_degree",), "_cp", count),
        Key((f"{P}.expert_parallel_degree",), "_ep", count),
        Key((f"{P}.expert_tensor_parallel_degree",), matters="how experts are cut", harmless=(1,)),
        Key(("training.enable_cpu_offload",), matters="weights and states on the host"),
        Key(("training.mixed_precision_reduce",), matters="the format of reduced gradients", harmless=("float32",)),
        Key(("compile.enable",), "compile", truth),
        Key(("compile.components",), matters="what is compiled", harmless=(["model", "loss"],)),
        Key(("model.converters",), matters="formats of matrix products"),
        Key(("activation_checkpoint.per_op_sac_*",), matters="what checkpoints keep",
            harmless=(["moe.router.gate"],)),
        Key(("checkpoint.async_mode",), matters="host memory of checkpoints",
            harmless=("disabled", "async", "async_with_pinned_mem")),
        Key(("fault_tolerance.enable",), matters="replicas"),
        Key(("experimental.custom_import", "experimental.custom_args_module"), matters="code of one's own"),
        Key(("debug.moe_force_load_balance",), matters="tokens of each expert"),
    ),
    inert=(
        "job", "profiling", "metrics", "model.hf_assets_path", "model.tokenizer_path", "model.print_after_conversion",
        "optimizer", "lr_scheduler", "training.dataset*", "training.max_norm", "training.steps", "training.gc_*",
        "training.dataloader", "training.seed", "training.deterministic", f"{P}.*", "checkpoint", "compile.backend",
        "activation_checkpoint.memory_budget", "activation_checkpoint.visualize*", "activation_checkpoint.early_stop",
        "activation_checkpoint.preserve_rng_state", "activation_checkpoint.determinism_check",
        "activation_checkpoint.debug", "quantize", "comm", "memory_estimation", "fault_tolerance", "experimental",
        "validation", "debug", "float8",
    ),
)  # fmt: skip
