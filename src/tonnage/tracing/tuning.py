"""Adapters and packed weights, made by peft's own code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.composites import hit
from tonnage.memory.adapter_patterns import of_peft
from tonnage.tracing.again import ENDINGS
from tonnage.tracing.models import DTYPES


def tuned(model: Any, job: Mapping[str, Any]) -> Any:
    """The model as a fine-tuning run has it.

    Args:
        model: on the meta device.
        job: its keys ``nf4`` (format of the computation, or None), ``int8``, ``nested``, ``kbit``, ``lora``
            (rank, targets, dropout) and ``frozen`` (parts of names).

    Raises:
        UnsupportedError: peft is not installed.
        InputError: peft refuses the targets.
    """
    lora = job.get("lora")
    if job.get("nf4"):
        from tonnage.tracing import bitsandbytes

        bitsandbytes.install()
        bitsandbytes.pack(model, DTYPES[job["nf4"]], nested=bool(job.get("nested")))
    if job.get("int8"):
        from tonnage.tracing import bitsandbytes

        bitsandbytes.install()
        bitsandbytes.pack(model)
    out = job.get("frozen") or ()
    if lora is None:
        for name, weight in model.named_parameters():
            if hit(name, out):
                weight.requires_grad_(False)
        return model
    try:
        import peft
    except ImportError as e:
        raise UnsupportedError(
            "adapters are traced with peft, which is not installed",
            key="lora_rank",
            hint="pip install 'tonnage[trace]'",
        ) from e
    if job.get("kbit"):
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    targets = lora["targets"]
    config = peft.LoraConfig(
        r=lora["rank"],
        lora_dropout=lora["dropout"],
        target_modules=of_peft(_spelled(model, targets)),
        exclude_modules=f".*({'|'.join(map(re.escape, out))}).*" if out else None,
        init_lora_weights=True,
        task_type=task(model),
    )
    try:
        model = peft.get_peft_model(model, config)
    except ValueError as e:
        raise InputError(f"peft refuses the targets: {e}"[:300], key="lora_targets", value=str(targets)) from e
    return model


def task(model: Any) -> str | None:
    """What peft is told that the model is for, whose class hands the batch on; there is none for sound or masks."""
    writes = hasattr(model, "prepare_inputs_for_generation")
    if not writes or getattr(model, "main_input_name", "input_ids") != "input_ids":
        return None
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


def _spelled(model: Any, targets: Sequence[str]) -> list[str]:
    """The targets, where ``attention`` stands for the linear modules of attention."""
    if "attention" not in targets:
        return list(targets)
    around = [f"{name}." for name, m in model.named_modules() if type(m).__name__.endswith(ENDINGS["attention"])]
    linear = [name for name, m in model.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D))]
    found = [name for name in linear if name.startswith(tuple(around))]
    return [name for target in targets for name in (found if target == "attention" else (target,))]
