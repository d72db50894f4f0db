"""Training objectives beyond the next token, settled: what a batch is, the loss, the models that run beside.

A module for each, which carries its name and has its record. As TRL's trainers do it, of the release that is asked for,
with sequences that need no padding. A batch of DPO and its like is counted in pairs: a batch of 1 is two sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.arch.objectives.selected import way
from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.estimate.objectives._objective import Asked, Objective
from tonnage.estimate.recipe import Recipe
from tonnage.record import Record
from tonnage.registry import names, variant
from tonnage.releases import Version, shown
from tonnage.workload.training import OBJECTIVE_KEYS, Train

PACKAGE: Final = "tonnage.estimate.objectives"
PADDING: Final = (
    "padding: sequences of one length are meant; --padded answers for masks, with which another kernel runs"
)
LOGGED: Final = "what is logged of a step, which never reaches as high as the head"
FOLLOWED: Final = ("transformers", "trl", "axolotl")
"""Stacks whose users run TRL's trainers as they are, each of the release that it asks for."""
WHOLE: Final = {"llama-factory": ("dpo", "kto", "orpo", "simpo")}
"""Stacks with trainers of their own, and the objectives of these that are modelled."""
ELSEWHERE: Final = {
    "llama-factory": "of its own trainers, which make all logits in fp32, DPO, KTO, ORPO and SimPO are modelled",
    "unsloth": "it runs the trainers of the TRL that is installed, 0.18 to 1.15, whose losses take all logits",
}
"""unsloth 2026.10.9 METADATA, unsloth/models/dpo.py (losses of its own on demand);
LLaMA-Factory v0.9.5 src/llamafactory/train/dpo/trainer.py (concatenated_forward)."""
GONE: Final = ("bco", "minillm", "nash-md", "prm", "xpo", "gspo-token")
"""What TRL's experimental trainers have trained up to 1.14, and 1.16 has none of."""
NAMED: Final = {
    "online-dpo": "what it writes and judges in every step", "gold": "comparing words of two vocabularies",
    "distillation": "DistillationTrainer's tiles of two heads", "gmpo": "its loss over a geometric mean",
    "a2po": "its loss", "tpo": "its three answers", "sdft": "its own demonstrations", "sdpo": "its own feedback",
    "iw-opd": "its weighted divergence", "async-grpo": "a rollout that runs meanwhile",
    "async-distillation": "a rollout that runs meanwhile", "server-distillation": "a teacher elsewhere",
}  # fmt: skip
"""Further trainers of TRL 1.16, and what of them is not modelled."""
ROUTED: Final = "the router's auxiliary loss"


class Aim(Record):
    """What an objective makes of a step.

    Args:
        recipe: with the loss and the models beside.
        values: keys of the workload, as a result repeats them.
        caveats: what has to be said.
        not_modelled: what is left out.
    """

    recipe: Recipe
    values: dict[str, Any]
    caveats: tuple[str, ...]
    not_modelled: tuple[str, ...]


def aimed(
    model: Model, w: Train, recipe: Recipe, beside: Mapping[str, Model], memory: int | None, release: Version
) -> Aim:
    """Settle the objective.

    Args:
        model: that is trained.
        w: the workload.
        recipe: of a step on the next token.
        beside: models that the workload names, by the key that names them.
        memory: of the device; None where none is named. [byte]
        release: of TRL, whose trainer is asked for.

    Raises:
        InputError: keys contradict each other.
        UnsupportedError: understood, and not modelled.
    """
    objective = _chosen(w)
    wholly = way(release) != "tiles" and objective.named == "fused"
    named = "full" if wholly else objective.named
    _check(model, w, objective, named)
    rows = recipe.batch * objective.rows
    reference = _reference(w, objective)
    parts = objective.make(Asked(model, w, recipe, beside, reference, rows, memory, release))
    routed = (ROUTED,) if any(t.role == "router" for _, g in model.groups() for t in g) else ()
    paired = f"a batch of {recipe.batch} is {rows} sequences: both of a pair run together"
    return Aim(
        recipe=recipe.but(
            batch=rows if parts.cached is None else parts.cached[1], loss=parts.loss,
            drops=recipe.drops and objective.drops, others=parts.others, rollout=parts.rollout, columns=parts.columns,
            critic=parts.critic, cached=None if parts.cached is None else parts.cached[0],
            keep_logits=parts.critic is not None, mixer=None, empties=recipe.empties | parts.empties,
        ),
        values={"objective": objective.name, "reference": reference, "loss": named, **parts.values},
        caveats=(
            *((paired,) if objective.rows > 1 else ()),
            *((f"as TRL {shown(release)} does it, which makes all logits",) if wholly else ()),
            *parts.told,
        ),
        not_modelled=(
            *(() if recipe.makes_mask else (PADDING,)), *(() if wholly else (LOGGED,)), *routed, *parts.left_out
        ),
    )  # fmt: skip


def _chosen(w: Train) -> Objective:
    """The objective by its name."""
    said = (w.objective or "sft").lower()
    if said == "sft":
        key = next(key for key in OBJECTIVE_KEYS if getattr(w, key) is not None)
        raise InputError(
            f"{key} is said, and the objective is the next token", key=key, value=str(getattr(w, key)),
            hint="--objective dpo, grpo, distill, ...",
        )  # fmt: skip
    known = names(PACKAGE)
    plain = said.replace("_", "-")
    why = (
        "TRL 1.16 has no trainer of it"
        if plain in GONE
        else f"{NAMED[plain]} is not modelled"
        if plain in NAMED
        else ""
    )
    if why:
        raise UnsupportedError(
            f"objective = {said}: {why}", key="objective", value=said, hint=f"one of sft, {', '.join(known)}"
        )
    if said not in known:
        raise InputError(
            f"unknown objective {said!r}", key="objective", value=said, nearest=nearest(said, known),
            hint=f"one of sft, {', '.join(known)}",
        )  # fmt: skip
    stack = (w.stack or "").lower()
    if stack in WHOLE:
        # Imported late: most run TRL's trainers.
        from tonnage.estimate.objectives._whole import WAYS

        if said in WAYS[stack]:
            return WAYS[stack][said]
    return variant(PACKAGE, said, "OBJECTIVE", Objective)


def _check(model: Model, w: Train, objective: Objective, named: str) -> None:
    """Refuse what the objective, whose loss goes through the head as ``named``, cannot be combined with."""
    name = objective.name
    if w.stack is not None and w.stack.lower() not in FOLLOWED and not _own(w.stack.lower(), name):
        why = ELSEWHERE.get(w.stack.lower(), "it has no trainer of it that is modelled")
        raise UnsupportedError(
            f"objective = {name} with stack = {w.stack}: {why}", key="stack", value=w.stack, hint="--stack trl"
        )
    for key in OBJECTIVE_KEYS:
        if getattr(w, key) is not None and key not in objective.keys and (key, w.reference) != ("reference", "none"):
            raise InputError(f"objective = {name} has no {key}", key=key, value=str(getattr(w, key)))
    if w.loss not in (None, named):
        raise UnsupportedError(
            f"loss = {w.loss}: objective = {name} goes through the head in one way", key="loss", value=w.loss,
            hint=f"--loss {named}",
        )  # fmt: skip
    if held := next((kept for kept in w.retain if "outputs" in kept), None):
        raise UnsupportedError(
            f"retain = {held} with objective = {name}: TRL's trainers hold no output", key="retain", value=held,
            hint=f"leave out {held}",
        )  # fmt: skip
    if w.virtual_tokens is not None:
        raise UnsupportedError(
            f"virtual tokens with objective = {name} are not modelled", key="virtual_tokens",
            value=str(w.virtual_tokens), hint="--adapter lora",
        )  # fmt: skip
    if name == "kto" and w.batch == 1:
        raise InputError(
            "objective = kto compares each answer with another one of the batch", key="batch", value=1,
            hint="--batch 2",
        )  # fmt: skip
    _check_head(model, objective)
    if "lm_head" in w.lora_targets and named == "fused":
        raise InputError(
            f"TRL refuses adapters of the head with objective = {name}: its matrix is taken by itself",
            key="lora_targets", value="lm_head", hint="leave lm_head out",
        )  # fmt: skip


def _own(stack: str, name: str) -> bool:
    """Whether the stack's own trainer of the objective is modelled."""
    return name in WHOLE.get(stack, ())


def _check_head(model: Model, objective: Objective) -> None:
    """Whether the class that is counted is the one that is trained."""
    head, name = model.head, objective.name
    kind = model.class_name or model.model_type
    if objective.head == "judge" and (model.classes != 1 or head is None or not head.pooled):
        raise InputError(
            f"objective = {name} trains a classifier with one label, not {kind}", key="objective", value=name,
            hint="--head classify:1",
        )  # fmt: skip
    if objective.head == "none" and model.classes is not None:
        raise InputError(
            f"objective = embed trains a model without a head, not {kind}", key="objective", value=name,
            hint="--head none",
        )  # fmt: skip
    wordless = not model.causal or model.classes is not None or head is None or head.dense is not None
    if objective.head == "causal" and wordless:
        raise InputError(f"objective = {name} is for causal models, not {kind}", key="objective", value=name)


def _reference(w: Train, objective: Objective) -> str:
    """Where the reference's numbers come from."""
    adapts = w.adapter is not None or w.lora_rank is not None
    if not objective.references:
        return "none"
    first = objective.references[0]
    found = w.reference or ("adapter" if adapts and first == "resident" else first)
    if found not in objective.references:
        raise InputError(
            f"reference is one of {', '.join(objective.references)} with objective = {objective.name}, not {found!r}",
            key="reference", value=found, nearest=nearest(found, objective.references),
        )  # fmt: skip
    if found == "resident" and w.quant not in (None, "none"):
        raise UnsupportedError(
            f"reference = resident beside weights in {w.quant} is not modelled", key="reference", value=found,
            hint="--reference adapter, which takes no second model",
        )  # fmt: skip
    if found == "adapter" and not adapts:
        raise InputError(
            "reference = adapter is the model with its adapter switched off, and there is none", key="reference",
            value=found, hint="--lora-rank 16, or --reference resident",
        )  # fmt: skip
    return found
