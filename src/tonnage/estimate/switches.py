"""What a workload says of a step in single words, and what these cannot be combined with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tonnage.arch.model import Model
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.settle import tokens_within
from tonnage.memory.optimizers import Optimizer
from tonnage.releases import Version, since
from tonnage.stacks import Stack
from tonnage.workload.training import Train

MASKED: Final = ("transformers", "trl")
"""Stacks that hand transformers' own code the mask of a padded batch."""
OWN_TRAINERS: Final = ("llama-factory",)
"""Stacks whose trainers of other objectives are not TRL's."""
WRITTEN: Final = ("grpo", "rloo", "ppo")
"""Objectives whose texts end where the model ends them."""


def refuse(
    w: Train,
    against: Mapping[str, object],
    words: str,
    *,
    of: str | None = None,
    hint: str = "leave out {key}",
    hints: Mapping[str, str] = {},
) -> None:
    """Refuse a workload for the first key that something is not modelled with.

    Args:
        w: what is asked.
        against: keys, and whether each is in the way.
        words: why, with ``{key}`` and ``{value}``.
        of: the key that is refused; None for that which is in the way.
        hint: what to do, with ``{key}``.
        hints: what to do about single keys.

    Raises:
        UnsupportedError: one is in the way.
    """
    for key in (key for key, there in against.items() if there):
        value = getattr(w, key)
        raise UnsupportedError(
            words.format(key=key, value=value), key=of or key, value=str(value) if of is None else getattr(w, of),
            hint=hints.get(key, hint).format(key=key),
        )  # fmt: skip


def averaged(w: Train) -> bool:
    """Whether a copy of the model holds moving averages of its weights."""
    if w.ema and w.adapts:
        raise UnsupportedError(
            "moving averages beside adapters are not modelled", key="ema", value="true", hint="leave out ema"
        )
    return bool(w.ema)


def clips(w: Train, optimizer: Optimizer) -> bool:
    """Whether gradients are clipped by their norm, for which all of them have to be there."""
    if w.clip_grad_norm and (w.optimizer_in_backward or optimizer.late):
        raise InputError(
            "clip_grad_norm takes the norm of all gradients, of which a step in the backward pass leaves none",
            key="clip_grad_norm", value="true", hint="leave out clip_grad_norm",
        )  # fmt: skip
    return bool(w.clip_grad_norm)


def in_backward(w: Train, optimizer: Optimizer) -> bool:
    """Whether the optimizer steps in the backward pass; what it cannot be combined with is named."""
    if optimizer.shrinks:
        kept = {"retain": "grads" in w.retain, "precision": w.precision == "bf16-master"}
        for key in (key for key, contradicts in kept.items() if contradicts):
            raise InputError(
                f"optimizer = {optimizer.name} leaves projections in the gradients' places, to which a pass cannot add "
                f"as {key} = {getattr(w, key)} has it", key="optimizer", value=optimizer.name,
                hint=f"leave out {key}",
            )  # fmt: skip
    if not w.optimizer_in_backward and not optimizer.late:
        return False
    against = {
        "accumulate": (w.accumulate or 1) > 1, "retain": "grads" in w.retain, "first_step": w.first_step,
        "precision": w.precision == "bf16-master",
    }  # fmt: skip
    said = f"optimizer = {optimizer.name}" if optimizer.late else "optimizer_in_backward"
    for key, contradicts in against.items():
        if contradicts:
            raise InputError(
                f"{said} lets go of every gradient at once, which {key} = {getattr(w, key)} contradicts",
                key="optimizer" if optimizer.late else "optimizer_in_backward",
                value=optimizer.name if optimizer.late else "true", hint=f"leave out {key}",
            )  # fmt: skip
    return True


def emptied(w: Train, stack: Stack, *, packs: bool) -> frozenset[str]:
    """Where the allocator's cache is given back, as the recipe has it.

    Reference: https://github.com/huggingface/trl/blob/v1.16.0/trl/models/activation_offloading.py (``__enter__``, where
    bitsandbytes is there)
    """
    found = {
        "start": packs and w.offload == "activations", "forward": bool(w.empty_cache),
        stack.empties.get(w.objective or "", ""): True,
    }  # fmt: skip
    return frozenset(where for where, there in found.items() if where and there)


def nested(w: Train, stack: Stack, version: Version) -> bool:
    """Whether checkpoints of whole layers run a backward pass of their own, where nothing is said of that.

    Not where a part of the model is frozen, which would cut what lies below it off.
    """
    apart = w.train_only or w.freeze_layers is not None or w.compile or w.offload not in (None, "none")
    others = w.objective not in (None, "sft") and stack.name not in OWN_TRAINERS
    return since(version, stack.reentrant) and not apart and not others


def padded(model: Model, w: Train) -> bool:
    """Whether texts end before ``seq``, so that attention is handed a mask for each; what that excludes is named."""
    lengths = {w.completion_length, w.rejected_length}
    if not w.padded and (w.rejected_length is None or len(lengths) == 1):
        return False
    own = w.stack is not None and w.stack.lower() not in MASKED
    against = {
        "attention": w.attention not in (None, "sdpa", "efficient", "math", "eager"), "stack": own,
        "objective": w.objective in WRITTEN, "rollout": w.rollout is not None,
        "rejected_length": not w.padded and w.virtual_tokens is not None, "compile": bool(w.compile),
    }  # fmt: skip
    for key, said in against.items():
        if said:
            raise UnsupportedError(
                f"padded texts with {key} = {getattr(w, key)} are not modelled", key="padded", value="true",
                hint="--attention sdpa" if key == "attention" else "leave out padded",
            )  # fmt: skip
    if len(model.stacks) > 1:
        raise UnsupportedError(
            f"padded texts of {model.model_type}, an encoder-decoder model, are not modelled", key="padded",
            value="true", hint="leave out padded",
        )  # fmt: skip
    return True


def offloads(w: Train) -> bool:
    """Whether saved activations go to the host."""
    if w.offload in (None, "none", "save-on-cpu"):
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


def hosts(model: Model, w: Train) -> bool:
    """Whether everything that is saved goes to the host (``save_on_cpu``)."""
    if w.offload != "save-on-cpu":
        return False
    said = {
        "recompute": w.recompute not in (None, "none"),
        "kernels": w.kernels not in (None, "none"),
        "loss": w.loss not in (None, "full"),
        "objective": w.objective not in (None, "sft"),
        "quant": w.quant not in (None, "none"),
        "lora_rank": w.lora_rank is not None,
        "adapter": w.adapter is not None,
        "precision": str(w.precision).startswith("fp8"),
        "optimizer_in_backward": bool(w.optimizer_in_backward),
        "stack": w.stack not in (None, "transformers"),
    }
    refuse(w, said, "offload = save-on-cpu is not modelled together with {key} = {value}", of="offload")
    blocks = (sub.block for layer, _ in model.decoder.distinct() for sub in layer.sublayers)
    if any(getattr(block, "module", "") not in ("attention", "mlp") for block in blocks):
        raise UnsupportedError(
            f"offload = save-on-cpu is not modelled for the layers of {model.model_type}: attention and plain or gated "
            "feed-forward blocks are", key="offload", value=w.offload, hint="--recompute full",
        )  # fmt: skip
    return True
