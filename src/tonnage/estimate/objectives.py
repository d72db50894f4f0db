"""Training objectives beyond the next token, settled: what a batch is, the loss, the models that run beside.

As TRL's trainers do it, whose release 1.16 is followed, with sequences that need no padding. A batch of DPO and its
like is counted in pairs: a batch of 1 is two sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tonnage.arch import preferences as kinds
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss
from tonnage.arch.model import Model
from tonnage.arch.scored import log_probs
from tonnage.arch.tape import Value
from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.estimate.beside import Beside, resident
from tonnage.estimate.training import Recipe
from tonnage.memory.ahead import Ahead, Ends
from tonnage.record import Record
from tonnage.workload.training import Train

KEYS: Final = ("reference", "completion_length")
"""What says more about an objective."""

PADDING: Final = "padding: sequences of one length are meant, which need no mask; with one, another kernel runs"
LOGGED: Final = "what is logged of a step, which never reaches as high as the head"
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
    caveats: tuple[str, ...] = ()
    not_modelled: tuple[str, ...] = (PADDING, LOGGED)


class Objective(Record):
    """A way of training.

    Args:
        name: as users say it.
        rows: sequences that a batch of 1 has.
        loss: made from the scored tokens and whether the reference's numbers are given.
        named: how the loss goes through the head, as a result repeats it.
        references: where the reference's numbers may come from; the first where nothing is said.
        told: what the trained model's head tells of every token beside.
        keys: of ``KEYS``, those that it takes.
    """

    name: str
    rows: int
    loss: Callable[[int | None, bool], Loss]
    named: str = "fused"
    references: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    keys: tuple[str, ...] = KEYS


REFERENCED: Final = ("resident", "adapter", "precomputed")
OBJECTIVES: Final = {
    "dpo": Objective("dpo", 2, lambda n, given: kinds.DPO(n, given), references=REFERENCED, told=kinds.TOLD),
    "kto": Objective("kto", 1, lambda n, given: kinds.KTO(n, given), references=REFERENCED, told=kinds.TOLD[:2]),
    "orpo": Objective("orpo", 2, lambda n, given: kinds.Odds(), named="full", keys=()),
    "cpo": Objective("cpo", 2, lambda n, given: kinds.Odds(), named="full", keys=()),
    "simpo": Objective("simpo", 2, lambda n, given: kinds.Odds(likelihood=False), named="full", keys=()),
}
ALIASES: Final = {"preference": "dpo", "ipo": "dpo"}


def aimed(model: Model, w: Train, recipe: Recipe) -> Aim:
    """Settle the objective.

    Args:
        model: that is trained.
        w: the workload.
        recipe: of a step on the next token.

    Raises:
        InputError: keys contradict each other.
        UnsupportedError: understood, and not modelled.
    """
    said = (w.objective or "sft").lower()
    if said == "sft":
        key = next(key for key in KEYS if getattr(w, key) is not None)
        raise InputError(
            f"{key} is said, and the objective is the next token", key=key, value=str(getattr(w, key)),
            hint="--objective dpo",
        )  # fmt: skip
    objective = OBJECTIVES.get(ALIASES.get(said, said))
    if objective is None:
        raise InputError(
            f"unknown objective {said!r}", key="objective", value=said, nearest=nearest(said, tuple(OBJECTIVES)),
            hint=f"one of sft, {', '.join(OBJECTIVES)}",
        )  # fmt: skip
    _check(model, w, objective)
    reference = _reference(w, objective)
    batch = recipe.batch * objective.rows
    others = _others(model, w, objective, recipe, reference)
    loss = objective.loss(w.completion_length, reference == "precomputed")
    routed = (ROUTED,) if any(t.role == "router" for _, g in model.groups() for t in g) else ()
    return Aim(
        recipe=recipe.but(batch=batch, loss=loss, drops=False, others=others),
        values={"objective": objective.name, "reference": reference, "loss": objective.named},
        caveats=_said(objective, recipe, reference, batch),
        not_modelled=(PADDING, LOGGED, *routed),
    )


def _check(model: Model, w: Train, objective: Objective) -> None:
    """Refuse what the objective cannot be combined with."""
    name = objective.name
    for key in KEYS:
        if getattr(w, key) is not None and key not in objective.keys and (key, w.reference) != ("reference", "none"):
            raise InputError(f"objective = {name} has no {key}", key=key, value=str(getattr(w, key)))
    if w.loss not in (None, objective.named):
        raise UnsupportedError(
            f"loss = {w.loss}: TRL's {name} goes through the head in one way", key="loss", value=w.loss,
            hint=f"--loss {objective.named}",
        )  # fmt: skip
    if "outputs" in w.retain:
        raise UnsupportedError(f"retain = outputs with objective = {name}", key="retain", value="outputs")
    if w.virtual_tokens is not None:
        raise UnsupportedError(
            f"virtual tokens with objective = {name} are not modelled", key="virtual_tokens",
            value=str(w.virtual_tokens), hint="--adapter lora",
        )  # fmt: skip
    head = model.head
    if not model.causal or model.classes is not None or head is None or head.dense is not None:
        raise InputError(
            f"objective = {name} is for causal models, not {model.class_name or model.model_type}", key="objective",
            value=name,
        )  # fmt: skip
    if "lm_head" in w.lora_targets:
        raise InputError(
            f"TRL refuses adapters of the head with objective = {name}: its matrix is taken by itself",
            key="lora_targets", value="lm_head", hint="leave lm_head out",
        )  # fmt: skip


def _reference(w: Train, objective: Objective) -> str:
    """Where the reference's numbers come from."""
    adapts = w.adapter is not None or w.lora_rank is not None
    if not objective.references:
        return "none"
    found = w.reference or ("adapter" if adapts else "resident")
    if found not in objective.references:
        raise InputError(
            f"reference is one of {', '.join(objective.references)} with objective = {objective.name}, not {found!r}",
            key="reference", value=found, nearest=nearest(found, objective.references),
        )  # fmt: skip
    if found == "adapter" and not adapts:
        raise InputError(
            "reference = adapter is the model with its adapter switched off, and there is none", key="reference",
            value=found, hint="--lora-rank 16, or --reference resident",
        )  # fmt: skip
    return found


def _others(model: Model, w: Train, objective: Objective, recipe: Recipe, reference: str) -> tuple[Beside, ...]:
    """The reference, where it runs."""
    if reference not in ("resident", "adapter"):
        return ()
    off = reference == "adapter"
    ends = scored(w.completion_length, objective.told if off else ())
    reading = ahead(model, recipe, ends, batch=recipe.batch * objective.rows, off=off)
    return (Beside("reference", reading=reading) if off else resident("reference", model, recipe.weights, reading),)


def scored(completion: int | None, told: tuple[str, ...] = ()) -> Ends:
    """Log-probabilities behind the layers."""

    def ends(f: Forward, head: Head, x: Value, ids: Value) -> list[Value]:
        hand = [x]
        del x
        return log_probs(f, head, hand.pop(), completion, told)

    return ends


def ahead(model: Model, recipe: Recipe, ends: Ends, *, batch: int, off: bool) -> Ahead:
    """A pass without a gradient over the batch.

    Args:
        model: that runs.
        recipe: of the step.
        ends: what follows the layers.
        batch: sequences.
        off: it is the trained model with its adapter switched off: what of it is packed stays so.
    """
    tuning = None if recipe.tuning is None or not off else recipe.tuning.but(method=None, own=None)
    return Ahead(
        model, ends, batch=batch, tokens=recipe.tokens, kernel=recipe.kernel, weights=recipe.weights,
        autocast=recipe.autocast, casts=not off, tuning=tuning, fused=recipe.fused if off else None,
        makes_mask=recipe.makes_mask,
    )  # fmt: skip


def _said(objective: Objective, recipe: Recipe, reference: str, batch: int) -> tuple[str, ...]:
    told = []
    if objective.rows > 1:
        told.append(f"a batch of {recipe.batch} is {batch} sequences: chosen and rejected run together")
    if reference == "precomputed":
        told.append("the pass that computes the reference's log-probabilities before training is not part of the step")
    return tuple(told)
