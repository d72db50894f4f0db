"""Weights of a byte an element that an optimizer trains: how they lie there, and what they are not answered with."""

from __future__ import annotations

from typing import Final

from tonnage.arch.int8 import Int8
from tonnage.arch.model import Model
from tonnage.errors import UnsupportedError
from tonnage.estimate.switches import refuse
from tonnage.formats import FORMATS
from tonnage.memory.optimizers import Optimizer
from tonnage.memory.optimizers.quantized import GROUP, packs
from tonnage.memory.weights import Share, shares
from tonnage.tensors import Tensor
from tonnage.workload.training import Train

DOUBT: Final = (
    "q-galore-torch 1.0 runs with bitsandbytes below 0.44 alone: later releases take other arguments, and from 0.50 on "
    "its step fails; its packed products are in its repository (q_galore_torch/utils), not in the package"
)
TOLD: Final = (
    "matrices of attention and feed-forward lie in uint8 with a scale and a zero for 256 elements, and are unpacked "
    "for each product and for their step: Q-GaLore's own script with --weight_quant --proj_quant --stochastic_round"
)
HALF_DONE: Final = (
    "its script steps packed matrices alone in the backward pass: embeddings, norms and head keep their gradients and "
    "are never stepped, nor cleared"
)


def settled(
    model: Model, w: Train, optimizer: Optimizer, precision: str, weights: str
) -> tuple[Int8, tuple[Share, ...], tuple[str, ...]]:
    """What multiplies the packed matrices, how all weights lie there, and what has to be said.

    Args:
        model: that is trained.
        w: the workload.
        optimizer: that packs.
        precision: of the step.
        weights: format of the weights that are not packed.

    Raises:
        UnsupportedError: a workload whose packed products are not modelled.
    """
    beside = {
        "lora_rank": w.lora_rank is not None, "adapter": w.adapter is not None, "quant": w.quant not in (None, "none"),
        "train_only": bool(w.train_only), "freeze_layers": w.freeze_layers is not None,
        "modules_to_save": bool(w.modules_to_save), "virtual_tokens": w.virtual_tokens is not None,
        "recompute": w.recompute not in (None, "none", "full"), "kernels": w.kernels not in (None, "none"),
        "offload": w.offload not in (None, "none"), "compile": bool(w.compile), "ema": bool(w.ema),
        "objective": w.objective not in (None, "sft"), "replay": bool(w.replay), "alloc_conf": w.alloc_conf is not None,
        "eval_batch": w.eval_batch is not None, "stack": w.stack not in (None, "transformers"),
    }  # fmt: skip
    refuse(w, beside, f"{{key}} = {{value}} with optimizer = {optimizer.name} is not modelled",
           hint="--optimizer galore-8bit")  # fmt: skip
    if precision not in ("bf16", "fp16", "fp32"):
        raise UnsupportedError(
            f"precision = {precision} with optimizer = {optimizer.name}: its script has no autocast and no masters",
            key="precision", value=precision, hint="--precision bf16",
        )  # fmt: skip
    if len(model.stacks) > 1:
        raise UnsupportedError(
            f"optimizer = {optimizer.name} of {model.model_type}, an encoder-decoder model, is not modelled",
            key="optimizer", value=optimizer.name, hint="--optimizer galore-8bit",
        )  # fmt: skip
    told = (TOLD, HALF_DONE) if w.optimizer_in_backward else (TOLD,)
    # They are made of weights in fp32, and of the model's format from the first step on.
    scales = "fp32" if w.first_step else weights
    parts = [part for times, ts in model.groups() for t in ts for part in _parts(times, t, optimizer, scales)]
    return Int8(packs), shares(parts, FORMATS[weights]), told


def _parts(times: int, t: Tensor, optimizer: Optimizer, scales: str) -> list[tuple[int, Tensor, str]]:
    assert optimizer.packs is not None
    if t.alias_of is not None or not optimizer.packs(t):
        return [(times, t, "kept")]
    groups = (("X", t.numel // GROUP),)
    return [
        (times, t.but(dtype="uint8"), "packed values"),
        (times, t.but(axes=groups, dims=(), dtype=scales), "scales"),
        (times, t.but(axes=groups, dims=(), dtype=scales), "zero points"),
    ]
