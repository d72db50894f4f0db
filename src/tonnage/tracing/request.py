"""What is asked of a trace, with nothing left open: the keys of ``train`` and ``serve``, settled for the real code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.devices import Device
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.packing import counted
from tonnage.estimate.precision import PRESETS
from tonnage.estimate.settle import AS_NEWEST, filled, one_device, refuse
from tonnage.estimate.summary import caching
from tonnage.estimate.switches import nested
from tonnage.formats import storage_format
from tonnage.memory.optimizers import spelled
from tonnage.memory.optimizers.low_rank import RANK
from tonnage.memory.overhead import cublas_workspace
from tonnage.memory.recompute import settled
from tonnage.record import Record
from tonnage.releases import Version, shown, since
from tonnage.stacks import Stack
from tonnage.stacks import stack as stack_of
from tonnage.workload.serving import Serve
from tonnage.workload.training import Train

DEFAULT_SEQ: Final = 2048
DEFAULT_CONTEXT: Final = 8192
CAPABILITY: Final = (8, 0)
"""Compute capability that is meant where no device is named."""
FLASH_SINCE: Final = (8, 0)
"""First compute capability with flash attention. torch v2.13.0 aten/src/ATen/native/transformers/cuda/sdp_utils.cpp"""
MIXERS: Final = ("mamba-ssm", "fla")
"""Packages whose kernels run mixers."""
OWN_KERNELS: Final = ("flash", "efficient", "math")
PACKAGED: Final = ("flash_attention_2", "flash_attention_3")
"""Attention of a package of its own, of which a trace has stand-ins."""
INT8: Final = ("int8", "bnb-int8", "llm.int8")
NF4: Final = {"nf4": False, "nf4-dq": True}

SERVE_ONLY: Final = ("engine", "quant", "kv_dtype")
POSITIONS: Final = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx")


WHOLE: Final = ("full", "reentrant", "non-reentrant")
"""Ways in which layers are computed again as a whole."""
TRACED_AGAIN: Final = frozenset(("attention", "mlp", "moe", "shared_experts"))
"""Modules of a layer that a trace puts under checkpoints of their own."""


class Request(Record):
    """A trace that is asked for.

    Args:
        job: for the process that traces.
        workload: as a result repeats it.
        caveats: what has to be said.
    """

    job: dict[str, Any]
    workload: dict[str, Any]
    caveats: tuple[str, ...] = ()


def training(config: Mapping[str, Any], w: Train, device: Device | None, *, name: str, head: str | None) -> Request:
    """Settle a training workload.

    Args:
        config: of the model, as written.
        w: the workload.
        device: that is meant; None is one of compute capability 8.0.
        name: of the model.
        head: the class to trace; None for the config's own.

    Raises:
        UnsupportedError: understood, and not traced.
        InputError: contradictory.
    """
    degrees = one_device(w)
    stack = stack_of(w.stack)
    version, newer = stack.releases.read(w.stack_version, key="stack_version")
    refuse(w, "objective", "only the next token is traced", unless=(None, "sft"), hint="trace a step of your own")
    for key in ("experts", "expert_imbalance"):
        refuse(w, key, "experts are traced by grouped products", unless=(None, "grouped_mm"), hint="leave it out")
    refuse(w, "optimizer_rank", "projections are traced at rank 128", unless=(None, RANK), hint="leave it out")
    asked, mixers, w = w.kernels, *_mixers(w, device)
    liger = _liger(config, w, device)
    modules = sorted(plan.modules) if (plan := settled(w.recompute)) is not None else []
    if not modules or not TRACED_AGAIN.issuperset(modules):
        refuse(w, "recompute", "layers are checkpointed whole or not", unless=(None, "none", *WHOLE))
    stored = _stored(config, w.dtype)
    precision = w.precision or ("" if w.adapts else since(version, stack.precision)) or stored
    if precision not in PRESETS or precision.startswith("fp8"):
        raise UnsupportedError(
            f"precision = {precision} is not traced", key="precision", value=precision,
            hint=f"one of {', '.join(PRESETS)}",
        )  # fmt: skip
    weights, autocast = PRESETS[precision]
    if w.adapts and autocast is not None:
        # What is frozen keeps the checkpoint's format.
        weights = stored
    adam = since(version, stack.optimizer)
    said = spelled(w.optimizer)
    optimizer = adam if said == "adamw" else said
    seq = w.seq or _length(config, DEFAULT_SEQ)
    tuning, lora = _tuning(w, autocast or weights)
    job = {
        **_common(config, w.attention, device, head=head),
        **tuning,
        "task": "train", "weights": weights, "autocast": autocast, "optimizer": optimizer, "batch": w.batch or 1,
        "seq": seq, "targets": w.target_seq or seq, "accumulate": w.accumulate or 1, "recompute": w.recompute in WHOLE,
        "reentrant": w.recompute == "reentrant" or (w.recompute == "full" and nested(w, stack, version)),
        "modules": modules, "logits": w.logits_to_keep,
        "keep_outputs": any(kept.endswith("outputs") for kept in w.retain),
        "keep_step": any(kept.endswith("-outputs") for kept in w.retain),
        "keep_last": "last-outputs" in w.retain, "keep_gradients": "grads" in w.retain,
        "clips": bool(w.clip_grad_norm), "in_backward": bool(w.optimizer_in_backward),
        "texts": _texts(w, stack, version, autocast or weights),
        "steps": 1 if w.first_step else 2, "liger": liger, "mixers": mixers,
    }  # fmt: skip
    # prepare_model_for_kbit_training casts what is not packed.
    weights = "fp32" if w.kbit_prepared and lora else weights
    values = {
        **degrees, "model": name, "dtype": weights, "quant": w.quant or "none", "attention": w.attention or "sdpa",
        "stack": stack.name, "stack_version": shown(version), "precision": precision, "weights_dtype": weights,
        "compute_dtype": autocast or weights, "grad_dtype": weights, "state_dtype": weights, "master": False,
        "optimizer": optimizer, "batch": job["batch"], "accumulate": job["accumulate"], "seq": seq,
        "target_seq": w.target_seq,
        "recompute": w.recompute or "none", "loss": w.loss or (liger["named"] if liger else "full"),
        "kernels": asked or "none",
        "lora_targets": tuple(lora["targets"]) if lora else (),
        "lora_dropout": lora["dropout"] if lora else None, "kbit_prepared": bool(w.kbit_prepared),
    }  # fmt: skip
    caveats = [newer] if newer else []
    caveats += [AS_NEWEST] if version[0] < stack.releases.newest[0] else []
    return Request(job, {"task": "train", "model": name, **filled(w, values)}, (*caveats, *_dequantized(config)))


def _texts(w: Train, stack: Stack, version: Version, compute: str) -> dict[str, Any] | None:
    """The texts of packed rows, as the process takes them."""
    if w.packing in (None, "none"):
        return None
    flat = w.packing == "flat"
    return {
        "count": counted(w, w.batch or 1),
        "flat": flat,
        "told": flat and since(version, stack.bounds),
        "form": compute if stack.masks and w.attention != "flash_attention_2" else None,
    }


def _mixers(w: Train, device: Device | None) -> tuple[dict[str, Any] | None, Train]:
    """Kernels of mixers, as the process takes them, and the workload without; None where there are none."""
    names = str(w.kernels).split(",")
    package = next((name for name in MIXERS if name in names), None)
    if package is None:
        return None, w
    # Imported late: most traces do without.
    from tonnage.estimate.liger import multiprocessors

    rest = ",".join(name for name in names if name != package) or None
    return {"package": package, "processors": multiprocessors(device)}, w.but(kernels=rest)


def _liger(config: Mapping[str, Any], w: Train, device: Device | None) -> dict[str, Any] | None:
    """Liger's kernels and losses, as the process takes them; None where nothing is replaced.

    Raises:
        InputError: no release of it.
        UnsupportedError: a loss that it has not.
    """
    kernels = w.kernels not in (None, "none")
    if not kernels and w.loss in (None, "full"):
        return None
    # Imported late: most traces do without.
    from tonnage.arch.objectives.losses import InPlace
    from tonnage.estimate import liger

    if w.loss not in (None, "full", "fused", "liger"):
        raise UnsupportedError(
            f"loss = {w.loss} is not traced", key="loss", value=w.loss, hint="one of full, fused, liger"
        )
    asked = str(w.kernels).partition(":")[0].partition("==")[2] if kernels else ""
    parts = liger.asked(str(w.kernels)).parts if kernels else ()
    patch = liger.PATCHES.get(str(config.get("model_type")))
    return {
        "release": asked or None, "parts": sorted(parts), "loss": w.loss, "processors": liger.multiprocessors(device),
        "named": "full" if patch is None else "liger" if patch.loss is InPlace else "fused",
    }  # fmt: skip


def _tuning(w: Train, compute: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Adapters and packed weights, as the process takes them."""
    lora = None
    if w.lora_rank is not None:
        lora = {"rank": w.lora_rank, "targets": list(w.lora_targets), "dropout": w.lora_dropout or 0.0}
    for key in ("lora_targets", "lora_dropout", "kbit_prepared"):
        if lora is None and getattr(w, key):
            raise InputError(
                f"{key} is said, and no lora_rank", key=key, value=str(getattr(w, key)), hint="--lora-rank 16"
            )
    for key in ("adapter", "virtual_tokens", "encoder_hidden", "modules_to_save", "train_only", "freeze_layers"):
        said = getattr(w, key)
        if said not in (None, ()) and (key, said) != ("adapter", "lora"):
            raise UnsupportedError(
                f"{key} is not traced yet", key=key, value=str(said), hint="tonnage train answers for it"
            )
    quant = w.quant if w.quant not in (None, "none") else None
    eight = quant in INT8
    if quant is not None and ((quant not in NF4 and not eight) or lora is None):
        hint = (
            "--quant nf4, nf4-dq or int8"
            if quant not in NF4 and not eight
            else "--lora-rank 16 trains adapters beside them"
        )
        raise UnsupportedError(f"quant = {quant} is not traced", key="quant", value=quant, hint=hint)
    nested = quant is not None and not eight and NF4[quant]
    packed = compute if quant is not None and not eight else None
    return {"lora": lora, "nf4": packed, "int8": eight, "nested": nested, "kbit": bool(w.kbit_prepared)}, lora


def serving(config: Mapping[str, Any], w: Serve, device: Device | None, *, name: str, head: str | None) -> Request:
    """Settle a serving workload of transformers' ``generate``; as ``training``."""
    one_device(w)
    refuse(
        w, "engine", "the code of transformers is traced", unless=(None, "transformers"), hint="--engine transformers"
    )
    refuse(w, "quant", "packed weights are traced in training only", unless=(None, "none"))
    dtype = _stored(config, w.dtype)
    if w.kv_dtype is not None and storage_format(w.kv_dtype, key="kv_dtype").name != dtype:
        raise UnsupportedError(
            f"kv_dtype = {w.kv_dtype}: the cache has the format of the weights, {dtype}", key="kv_dtype"
        )
    context = w.context or _length(config, DEFAULT_CONTEXT)
    prompt = w.prompt or context
    if prompt > context:
        raise InputError(f"prompt = {prompt:,} is longer than context = {context:,}", key="prompt", value=prompt)
    job = {
        **_common(config, w.attention, device, head=head),
        "task": "serve", "weights": dtype, "autocast": None, "batch": w.concurrency or 1, "context": context,
        "prompt": prompt, "logits": w.logits or "last", "recompute": False, "lora": None, "nf4": None,
    }  # fmt: skip
    values = {
        "gpus": 1, "tp": 1, "pp": 1, "cp": 1, "ep": 1, "dp": 1, "sharding": "none", "dtype": dtype, "quant": "none",
        "engine": "transformers", "kv_dtype": dtype, "context": context, "concurrency": job["batch"],
        "attention": w.attention or "sdpa", "prompt": prompt, "logits": job["logits"],
    }  # fmt: skip
    return Request(job, {"task": "serve", "model": name, **filled(w, values)}, _dequantized(config))


def _common(
    config: Mapping[str, Any], attention: str | None, device: Device | None, *, head: str | None
) -> dict[str, Any]:
    """What both tasks tell the process."""
    found = capability(device)
    kernels = [k for k in OWN_KERNELS if k != "flash" or found >= FLASH_SINCE]
    if attention in (*OWN_KERNELS, "cudnn"):
        kernels = [attention]
    architecture = device.architecture if device is not None else ""
    return {
        "config": dict(config), "head": head, "attention": _implementation(attention),
        "kernels": kernels, "capability": list(found), "backend": None, "layers": "few",
        "workspace": cublas_workspace(architecture) if caching(device) else 0,
    }  # fmt: skip


def _implementation(attention: str | None) -> str:
    """As transformers names it: sdpa may be held to one kernel."""
    if attention == "flex":
        return "flex_attention"
    return str(attention) if attention in ("eager", *PACKAGED) else "sdpa"


def capability(device: Device | None) -> tuple[int, int]:
    """Compute capability of a device; CAPABILITY where it has none."""
    text = "" if device is None else device.architecture.removeprefix("sm_").rstrip("abcdef")
    if device is None or not device.architecture.startswith("sm_") or not text.isdigit():
        return CAPABILITY
    return int(text[:-1]), int(text[-1])


def _stored(config: Mapping[str, Any], asked: str | None) -> str:
    """The format of the checkpoint: asked for, the config's, else bf16."""
    own = config.get("dtype") or config.get("torch_dtype") or "bf16"
    found = storage_format(asked or str(own).removeprefix("torch."), key="dtype").name
    if found not in ("fp32", "fp16", "bf16"):
        raise UnsupportedError(f"no forward pass is traced in {found}", key="dtype", value=found)
    return found


def _length(config: Mapping[str, Any], longest: int) -> int:
    """The default length: ``longest``, or the model's positions where they are fewer."""
    found = next((config[key] for key in POSITIONS if isinstance(config.get(key), int)), longest)
    return min(longest, int(found))


def _dequantized(config: Mapping[str, Any]) -> tuple[str, ...]:
    if "quantization_config" not in config:
        return ()
    return ("the checkpoint is quantized: traced as if dequantized",)
