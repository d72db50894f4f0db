"""Training objectives beyond the next token, settled: what a batch is, the loss, the models that run beside.

As TRL's trainers do it, whose release 1.16 is followed, with sequences that need no padding. A batch of DPO and its
like is counted in pairs: a batch of 1 is two sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tonnage.arch import preferences as kinds
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss
from tonnage.arch.model import Model
from tonnage.arch.ops import cast
from tonnage.arch.scored import log_probs
from tonnage.arch.tape import Value
from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.estimate.beside import Beside, resident
from tonnage.estimate.rollout import Rollout
from tonnage.estimate.training import Recipe
from tonnage.memory.ahead import Ahead, Ends
from tonnage.record import Record
from tonnage.workload.training import OBJECTIVE_KEYS, Train

PADDING: Final = "padding: sequences of one length are meant, which need no mask; with one, another kernel runs"
LOGGED: Final = "what is logged of a step, which never reaches as high as the head"
ROUTED: Final = "the router's auxiliary loss"


class Asked(Record):
    """What an objective is settled from.

    Args:
        model: that is trained.
        w: the workload.
        recipe: of a step on the next token.
        beside: models that the workload names, by the key that names them.
        reference: where the reference's numbers come from.
        rows: sequences of a pass.
        memory: of the device; None where none is named. [byte]
    """

    model: Model
    w: Train
    recipe: Recipe
    beside: Mapping[str, Model]
    reference: str
    rows: int
    memory: int | None = None


class Parts(Record):
    """What it makes of it.

    Args:
        loss: of the step.
        others: models that lie beside.
        rollout: what comes before the update.
        columns: passes of a step.
        values: keys of the workload that were left open.
        told: what has to be said.
        left_out: what is not modelled.
    """

    loss: Loss
    others: tuple[Beside, ...] = ()
    rollout: Rollout | None = None
    columns: int = 1
    values: Mapping[str, Any] = {}
    told: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


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


class Objective(Record):
    """A way of training.

    Args:
        name: as users say it.
        make: settles it.
        rows: sequences that a batch of 1 has.
        named: how the loss goes through the head, as a result repeats it.
        references: where the reference's numbers may come from; the first where nothing is said.
        keys: of ``OBJECTIVE_KEYS``, those that it takes.
        head: of the model: of its words, a classifier's with one label, or none.
        drops: dropout stays on.
    """

    name: str
    make: Callable[[Asked], Parts]
    rows: int = 1
    named: str = "full"
    references: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    head: str = "causal"
    drops: bool = False


def _compared(loss: Callable[[int | None, bool], Loss], told: tuple[str, ...]) -> Callable[[Asked], Parts]:
    """An objective with a reference: its loss, and what the trained model's head tells beside."""

    def make(a: Asked) -> Parts:
        n = a.w.completion_length
        made = loss(n, a.reference == "precomputed")
        if a.reference == "precomputed":
            why = "the pass that computes the reference's log-probabilities before training is not part of the step"
            return Parts(made, told=(why,))
        off = a.reference == "adapter"
        reading = ahead(a, scored(n, told if off else ()), off=off)
        return Parts(made, (beside(a, "reference", reading),))

    return make


def _paired(likelihood: bool) -> Callable[[Asked], Parts]:
    return lambda a: Parts(kinds.Odds(likelihood=likelihood))


def _reward(a: Asked) -> Parts:
    from tonnage.arch.judged import Reward

    return Parts(Reward())


def _embed(a: Asked) -> Parts:
    from tonnage.arch.embedded import Contrast

    return Parts(Contrast(), columns=2, told=("the texts of a pair run one after the other, and both are kept",))


def _distill(a: Asked) -> Parts:
    from tonnage.estimate.taught import taught

    return taught(a)


def _grpo(a: Asked) -> Parts:
    from tonnage.estimate.policies import grpo

    return grpo(a)


REFERENCED: Final = ("resident", "adapter", "precomputed")
COMPARED: Final = ("reference", "completion_length")
ROLLED: Final = tuple(key for key in OBJECTIVE_KEYS if key != "teacher")
OBJECTIVES: Final = {
    o.name: o
    for o in (
        Objective("dpo", _compared(kinds.DPO, kinds.TOLD), 2, "fused", REFERENCED, COMPARED),
        Objective("kto", _compared(kinds.KTO, kinds.TOLD[:2]), 1, "fused", REFERENCED, COMPARED),
        Objective("orpo", _paired(likelihood=True), 2),
        Objective("cpo", _paired(likelihood=True), 2),
        Objective("simpo", _paired(likelihood=False), 2),
        Objective("reward", _reward, 2, head="judge"),
        Objective("embed", _embed, head="none"),
        Objective("distill", _distill, keys=("teacher", "completion_length", "rollout")),
        Objective(
            "grpo", _grpo, 1, "fused", ("none", "resident", "adapter"), ROLLED, drops=True,
        ),
    )
}  # fmt: skip
REFUSED: Final = {"ppo": "TRL 1.16 has no trainer for it any more; --objective grpo does without a critic"}


def aimed(model: Model, w: Train, recipe: Recipe, beside: Mapping[str, Model], memory: int | None) -> Aim:
    """Settle the objective.

    Args:
        model: that is trained.
        w: the workload.
        recipe: of a step on the next token.
        beside: models that the workload names, by the key that names them.
        memory: of the device; None where none is named. [byte]

    Raises:
        InputError: keys contradict each other.
        UnsupportedError: understood, and not modelled.
    """
    objective = _chosen(w)
    _check(model, w, objective)
    rows = recipe.batch * objective.rows
    reference = _reference(w, objective)
    parts = objective.make(Asked(model, w, recipe, beside, reference, rows, memory))
    routed = (ROUTED,) if any(t.role == "router" for _, g in model.groups() for t in g) else ()
    paired = f"a batch of {recipe.batch} is {rows} sequences: both of a pair run together"
    return Aim(
        recipe=recipe.but(
            batch=rows, loss=parts.loss, drops=recipe.drops and objective.drops, others=parts.others,
            rollout=parts.rollout, columns=parts.columns,
        ),
        values={"objective": objective.name, "reference": reference, "loss": objective.named, **parts.values},
        caveats=(*((paired,) if objective.rows > 1 else ()), *parts.told),
        not_modelled=(PADDING, LOGGED, *routed, *parts.left_out),
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
    if said in REFUSED:
        raise UnsupportedError(f"objective = {said}: {REFUSED[said]}", key="objective", value=said)
    found = OBJECTIVES.get(said)
    if found is None:
        raise InputError(
            f"unknown objective {said!r}", key="objective", value=said, nearest=nearest(said, tuple(OBJECTIVES)),
            hint=f"one of sft, {', '.join(OBJECTIVES)}",
        )  # fmt: skip
    return found


def _check(model: Model, w: Train, objective: Objective) -> None:
    """Refuse what the objective cannot be combined with."""
    name = objective.name
    for key in OBJECTIVE_KEYS:
        if getattr(w, key) is not None and key not in objective.keys and (key, w.reference) != ("reference", "none"):
            raise InputError(f"objective = {name} has no {key}", key=key, value=str(getattr(w, key)))
    if w.loss not in (None, objective.named):
        raise UnsupportedError(
            f"loss = {w.loss}: objective = {name} goes through the head in one way", key="loss", value=w.loss,
            hint=f"--loss {objective.named}",
        )  # fmt: skip
    if "outputs" in w.retain:
        raise UnsupportedError(f"retain = outputs with objective = {name}", key="retain", value="outputs")
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
    if "lm_head" in w.lora_targets and objective.named == "fused":
        raise InputError(
            f"TRL refuses adapters of the head with objective = {name}: its matrix is taken by itself",
            key="lora_targets", value="lm_head", hint="leave lm_head out",
        )  # fmt: skip


def _check_head(model: Model, objective: Objective) -> None:
    """Whether the class that is counted is the one that is trained."""
    head, name = model.head, objective.name
    kind = model.class_name or model.model_type
    if objective.head == "judge" and (model.classes != 1 or head is None or not head.pooled):
        raise InputError(
            f"objective = reward trains a classifier with one label, not {kind}", key="objective", value=name,
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


def beside(a: Asked, what: str, reading: Ahead | None) -> Beside:
    """The reference: the model with its adapter switched off, or a second one."""
    if a.reference == "adapter":
        return Beside(what, reading=reading)
    return resident(what, a.model, a.recipe.weights, reading)


def scored(completion: int | None, told: tuple[str, ...] = ()) -> Ends:
    """Log-probabilities behind the layers."""

    def ends(f: Forward, head: Head, x: Value, ids: Value) -> list[Value]:
        hand = [x]
        del x
        return log_probs(f, head, hand.pop(), completion, told)

    return ends


def whole(f: Forward, head: Head, x: Value, ids: Value) -> list[Value]:
    """What the head makes of the hidden states; accelerate casts it to fp32 under autocast."""
    hand = [x]
    del x
    made = head.forward(f, hand.pop())
    return [made if f.tape.autocast is None else cast(made, "fp32")]


def ahead(a: Asked, ends: Ends, *, off: bool = False, own: bool = False) -> Ahead:
    """A pass of the model without a gradient.

    Args:
        a: what is asked.
        ends: what follows the layers.
        off: it is the trained model with its adapter switched off: what of it is packed stays so.
        own: it is the trained model as it is.
    """
    r = a.recipe
    tuning = r.tuning
    if tuning is not None and not own:
        tuning = tuning.but(method=None, own=None) if off else None
    return Ahead(
        a.model, ends, batch=a.rows, tokens=r.tokens, kernel=r.kernel, weights=r.weights, autocast=r.autocast,
        casts=not off and (r.tuning is None or not own), tuning=tuning, fused=r.fused if off or own else None,
        makes_mask=r.makes_mask,
    )  # fmt: skip
