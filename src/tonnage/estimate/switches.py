"""What a workload says of a step in single words, and what these cannot be combined with."""

from __future__ import annotations

from tonnage.arch.model import Model
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.settle import tokens_within
from tonnage.workload.training import Train


def averaged(w: Train) -> bool:
    """Whether a copy of the model holds moving averages of its weights."""
    if w.ema and w.lora_rank is not None:
        raise UnsupportedError(
            "moving averages beside adapters are not modelled", key="ema", value="true", hint="leave out ema"
        )
    return bool(w.ema)


def in_backward(w: Train) -> bool:
    """Whether the optimizer steps in the backward pass; what it cannot be combined with is named."""
    if not w.optimizer_in_backward:
        return False
    against = {
        "accumulate": (w.accumulate or 1) > 1, "retain": "grads" in w.retain, "first_step": w.first_step,
        "precision": w.precision == "bf16-master",
    }  # fmt: skip
    for key, said in against.items():
        if said:
            raise InputError(
                f"optimizer_in_backward lets go of every gradient at once, which {key} = {getattr(w, key)} contradicts",
                key="optimizer_in_backward", value="true", hint=f"leave out {key}",
            )  # fmt: skip
    return True


def offloads(w: Train) -> bool:
    """Whether saved activations go to the host."""
    if w.offload in (None, "none"):
        return False
    if w.recompute != "full":
        raise UnsupportedError(
            f"offload = {w.offload} with recompute = {w.recompute or 'none'} is not modelled: of tensors that are "
            "saved twice one stays", key="offload", value=w.offload, hint="--recompute full",
        )  # fmt: skip
    if w.optimizer_in_backward or w.alloc_conf is not None:
        raise UnsupportedError(
            f"offload = {w.offload} is not modelled together with optimizer_in_backward or alloc_conf", key="offload",
            value=w.offload, hint="leave the other out",
        )  # fmt: skip
    return True


def targets(model: Model, w: Train, seq: int) -> int | None:
    """Tokens that a decoder is given; None where there is no encoder."""
    if len(model.stacks) > 1:
        tokens_within(model, w.target_seq or seq, "target_seq")
        return w.target_seq or seq
    if w.target_seq is not None:
        raise InputError(
            f"target_seq is of models with an encoder and a decoder, which {model.model_type} is not",
            key="target_seq", value=w.target_seq, hint="--seq",
        )  # fmt: skip
    return None


def elements(model: Model) -> int | None:
    """How many parameters are trained; None for all."""
    if len(model.stacks) == 1:
        return None
    from tonnage.estimate.paired import trained

    return trained(model)
