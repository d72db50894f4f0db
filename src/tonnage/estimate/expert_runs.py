"""How the experts of a training step run, and what is not known of it: which of them tokens go to.

By grouped products, as transformers 5 runs them unless told otherwise, every sum is fixed: whatever the router does,
the step takes the same. In a loop over experts, tensors are as long as the tokens that chose an expert.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from tonnage.arch.experts import Experts
from tonnage.arch.experts_loop import batched, looped
from tonnage.arch.model import Model
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.switches import refuse
from tonnage.record import Record
from tonnage.stacks import Stack
from tonnage.timeline import Component, Rank, ranged
from tonnage.workload.training import Train

REFERENCE: Final = "arch/experts_loop.py"
OTHERWISE: Final = frozenset(
    [
        "aria", "aria_text", "beam", "glm5_next", "hy_v4", "inkling2", "inkling2_text",
        "llama4", "llama4_text", "longcat_flash", "muse_spark", "nemotron_h", "openai_privacy_filter",
    ]
)  # fmt: skip
"""Types whose loop is another."""


class Runs(Record):
    """Experts that do not run by grouped products.

    Args:
        model: with experts that run so, as the answer is made for.
        others: the same at the ends of what the router may do; none where it is said.
        told: what has to be said.
    """

    model: Model
    others: tuple[Model, ...]
    told: str

    def lines(self, rank: Rank, others: Iterable[Rank]) -> Iterator[Component]:
        """Lines of nothing but a range: from the least to the most that any of the ends takes."""
        found = [rank, *others]
        before = 0, 0
        words = "from all experts even to all tokens at the same ones, in the order that takes most, assumed"
        for tier in ("requested", "allocated"):
            own = rank.tier(tier)
            low, high = (choose(r.tier(tier) for r in found) - own for choose in (min, max))
            if (low, high) != before:
                yield ranged("other:routing", low - before[0], 0, high - before[1], words, REFERENCE, tier=tier)
            before = low, high


def settled(model: Model, w: Train, stack: Stack) -> Runs | None:
    """Settle ``experts`` and ``expert_imbalance``.

    Raises:
        InputError: there are no experts, or a ratio that there cannot be, or that changes nothing.
        UnsupportedError: understood, and not modelled.
    """
    blocks = [s.block for stack in model.stacks for layer, _ in stack.distinct() for s in layer.sublayers]
    experts = [b for b in blocks if isinstance(b, Experts)]
    key, value = ("experts", w.experts) if w.experts is not None else ("expert_imbalance", w.expert_imbalance)
    if not experts and not any(getattr(b, "module", "") == "moe" for b in blocks):
        raise InputError(
            f"{key} = {value}: {model.model_type} has no experts", key=key, value=value, hint="leave it out"
        )
    if w.experts in (None, "grouped_mm"):
        if w.expert_imbalance is not None:
            raise InputError(
                "expert_imbalance changes nothing where experts run by grouped products: their sums are fixed",
                key="expert_imbalance", value=w.expert_imbalance, hint="--experts eager, or leave it out",
            )  # fmt: skip
        return None
    _refused(model, w, stack, experts)
    if w.experts == "batched_mm":
        if w.expert_imbalance is not None:
            raise InputError(
                "expert_imbalance changes nothing where every token has matrices of its own", key="expert_imbalance",
                value=w.expert_imbalance, hint="--experts eager, or leave it out",
            )  # fmt: skip
        return Runs(batched(model), (), "the matrices of a token's experts are copied for it, whatever the router does")
    most = min(b.E / (b.used or 1) for b in experts)
    ratio = w.expert_imbalance
    if ratio is not None and ratio > most:
        raise InputError(
            f"expert_imbalance = {ratio:g}: all tokens at the same experts are {most:g} times the mean",
            key="expert_imbalance", value=ratio, hint=f"from 1 to {most:g}",
        )  # fmt: skip
    if ratio is not None:
        told = f"experts run one after the other, and the fullest has {ratio:g} times the mean of tokens, as was said"
        return Runs(looped(model, ratio), (), told)
    told = (
        "experts run one after the other, with as many tokens each; the range is what other routers would take: "
        f"--expert-imbalance 1 to {most:g}"
    )
    return Runs(looped(model, 1.0), (looped(model, most), looped(model, most, late=True)), told)


def _refused(model: Model, w: Train, stack: Stack, experts: list[Any]) -> None:
    by_loop = w.experts == "eager"
    usual = all(
        type(b) is Experts
        and b.working_set_modelled
        and not b.zero
        and not (by_loop and (b.transposed != b.bias or (b.bias and not b.clamp)))
        for b in experts
    )
    if not experts or not usual or (by_loop and model.model_type in OTHERWISE) or len(model.stacks) > 1:
        raise UnsupportedError(
            f"experts = {w.experts} is not modelled for {model.model_type}, whose own code differs", key="experts",
            value=w.experts, hint="--experts grouped_mm",
        )  # fmt: skip
    said = {
        "kernels": w.kernels not in (None, "none"), "objective": w.objective not in (None, "sft"),
        "quant": w.quant not in (None, "none"), "lora_rank": w.lora_rank is not None, "adapter": w.adapter is not None,
        "recompute": "moe_act" in str(w.recompute), "stack": stack.restated is not None,
        "eval_batch": w.eval_batch is not None,
    }  # fmt: skip
    refuse(w, said, f"experts = {w.experts} is not modelled with {{key}} = {{value}}", of="experts")
