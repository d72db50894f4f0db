"""What could make a training run fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.plan.changes import Change, Ladder, halved, merged

RECOMPUTED: Final = Change({"recompute": "full"}, "the activations of every layer computed again")
LORA: Final = Change(
    {"lora_rank": 16, "lora_targets": ("all-linear",)}, "LoRA on every matrix",
    ("lora_rank",),
)  # fmt: skip
LEAST_TOKENS: Final = 128
"""Sequences shorter than this are no answer to anyone."""
PACKED: Final = Change({"quant": "nf4"}, "frozen weights in 4 bits", ("quant",))
QLORA: Final = merged((LORA, PACKED))


def kept(w: Mapping[str, Any], eager: bool) -> list[Ladder]:
    """Changes of a workload, as its result repeats it, with which the same is trained.

    Args:
        w: the workload.
        eager: attention is no kernel.
    """
    out: list[Ladder] = []
    if w["recompute"] == "none":
        out.append((RECOMPUTED,))
    if w.get("reference") == "resident" and w["objective"] in ("dpo", "kto"):
        out.append(
            (Change({"reference": "precomputed"}, "the reference's log-probabilities computed before training"),)
        )
    if w.get("rollout") == "vllm":
        out.append((Change({"rollout": "vllm-sleep"}, "vLLM and the training in turns"),))
    if eager:
        out.append((Change({"attention": "sdpa"}, "fused attention"),))
    if w["optimizer"] in ("adamw-foreach", "adamw-loop"):
        out.append((Change({"optimizer": "adamw-fused"}, "the fused step of the same optimizer"),))
    if w.get("kernels") in (None, "none") and w.get("loss") in (None, "full"):
        out.append((Change({"kernels": "liger"}, "Liger's kernels and loss"),))
    batch, passes = w["batch"], w["accumulate"]
    out.append(
        tuple(
            Change(
                {"batch": batch // parts, "accumulate": passes * parts},
                "smaller batches, as many more passes",
            )
            for parts in halved(batch)
            if batch % parts == 0
        )
    )
    return out


def altered(w: Mapping[str, Any]) -> list[Ladder]:
    """Changes with which something else is trained, or otherwise: the least first."""
    out: list[Ladder] = []
    if w["optimizer"] in ("adamw-fused", "adamw-foreach", "adamw-loop"):
        out.append((Change({"optimizer": "adamw-8bit"}, "states of the optimizer in 8 bits", ("optimizer",)),))
    if w["precision"] in ("fp32", "tf32", "bf16-mixed"):
        out.append((Change({"precision": "bf16"}, "weights, gradients and states in bf16", ("precision",)),))
    seq = w["seq"]
    shorter = [seq // parts for parts in halved(seq // LEAST_TOKENS)]
    mean = w.get("mean_length") or 0
    out.append(
        tuple(
            # No mean is above the longest.
            Change({"seq": tokens} | ({"mean_length": tokens} if mean > tokens else {}), "shorter sequences", ("seq",))
            for tokens in shorter
        )
    )
    whole = not any(w.get(key) for key in ("lora_rank", "adapter", "train_only", "freeze_layers"))
    if whole:
        out.append((LORA,))
    if w.get("quant") in (None, "none") and (whole or w.get("lora_rank")):
        out.append((QLORA if whole else PACKED,))
    return out
