"""Experts with a capacity in a training step: what is not known of it is which of them tokens go to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.capacity import Capped, Shares, capped, spread
from tonnage.arch.capacity_masked import Masked
from tonnage.arch.model import Model
from tonnage.errors import InputError
from tonnage.estimate.expert_runs import Runs
from tonnage.estimate.switches import refuse
from tonnage.workload.training import Train

TOLD: Final = (
    "experts run one after the other, each with {capacity:,} tokens of a sequence at most; tokens are spread evenly, "
    "and the range is what other routers would take, down to one expert alone, the only one with gradients and "
    "optimizer state: --expert-imbalance 1 to {most:g}"
)
BY_MASK: Final = (
    "transformers takes the mask of choices for numbers of experts: expert 0 runs for every token as often as there "
    "are experts that it is not sent to, expert 1 for each that is sent, and no other has gradients; tokens are spread "
    "evenly, {capacity:,} of all sequences for an expert at most, and the range is what other routers would take: "
    "--expert-imbalance 1 to {most:g}"
)
SAID: Final = "{what}, and the fullest expert is sent {ratio:g} times the mean of tokens, as was said"


def settled(model: Model, w: Train) -> Runs:
    """The model with tokens spread evenly, and with the ends of what a router may do.

    Raises:
        InputError: experts cannot run otherwise, or a ratio that there cannot be.
        UnsupportedError: understood, and not modelled.
    """
    blocks = capped(model)
    if w.experts not in (None, "eager"):
        raise InputError(
            f"experts = {w.experts}: those of {model.model_type} are modules of their own, which run one after the "
            "other", key="experts", value=w.experts, hint="--experts eager, or leave it out",
        )  # fmt: skip
    _refused(model, w)
    most = min(b.E for b in blocks)
    ratio = w.expert_imbalance
    if ratio is not None and ratio > most:
        raise InputError(
            f"expert_imbalance = {ratio:g}: all tokens at one expert are {most:g} times the mean",
            key="expert_imbalance", value=ratio, hint=f"from 1 to {most:g}",
        )  # fmt: skip
    what = (BY_MASK if isinstance(blocks[0], Masked) else TOLD).format(capacity=blocks[0].capacity, most=most)
    if ratio is not None:
        told = SAID.format(what=what.partition(";")[0], ratio=ratio)
        return Runs(spread(model, Shares(imbalance=ratio)), (), told)
    return Runs(spread(model, Shares()), tuple(spread(model, s) for s in _ends(blocks)), what)


def _ends(blocks: list[Capped]) -> Iterator[Shares]:
    """What routers may do: all tokens at one expert; some experts full, and a token at each of the others."""
    yield Shares(imbalance=max(b.E for b in blocks))
    if isinstance(blocks[0], Masked):
        return
    for upward in (False, True):
        yield Shares(imbalance=max(b.E for b in blocks), fills=True, spares=True, upward=upward)


def _refused(model: Model, w: Train) -> None:
    blocks = [s.block for stack in model.stacks for layer, _ in stack.distinct() for s in layer.sublayers]
    attends = {m.name.rpartition(".")[2] for b in blocks if isinstance(b, GroupedQuery) for m in b.matrices()}
    adapts = w.lora_rank is not None
    elsewhere = adapts and (not w.lora_targets or not set(w.lora_targets) <= {*attends, "attention"})
    said = {
        "adapter": w.adapter not in (None, "lora"), "lora_targets": elsewhere, "eval_batch": w.eval_batch is not None,
        "quant": w.quant not in (None, "none"), "compile": bool(w.compile), "precision": w.precision == "fp16",
        "padded": w.padded,
    }  # fmt: skip
    refuse(
        w, said, f"{{key}} = {{value}}: not modelled with experts that have a capacity ({model.model_type})",
        hints={"lora_targets": f"--lora-targets of {', '.join(sorted(attends))}"},
    )  # fmt: skip
