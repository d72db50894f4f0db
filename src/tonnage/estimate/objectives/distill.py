"""Distillation settled: the teacher, and the student's loss."""

from __future__ import annotations

from typing import Final

from tonnage.arch.objectives.distilled import Distilled
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.beside import as_packed, resident
from tonnage.estimate.objectives._objective import Asked, Objective, Parts
from tonnage.estimate.objectives._reading import whole
from tonnage.estimate.objectives._rollouts import written
from tonnage.estimate.rollout import Rollout
from tonnage.estimate.settle import checkpoint_format, kernel
from tonnage.memory.ahead import Ahead

COMPLETION: Final = 128
"""Tokens that a student writes. trl v1.16.0 trl/experimental/gkd/gkd_config.py."""


def distill(a: Asked) -> Parts:
    """A teacher in its checkpoint's format, whose logits the student's are compared with.

    Raises:
        InputError: no teacher, or one with another vocabulary.
        UnsupportedError: a teacher whose forward pass is not modelled.
    """
    teacher = a.beside.get("teacher")
    if teacher is None:
        raise InputError("objective = distill needs a teacher", key="teacher", hint="--teacher MODEL")
    if len(teacher.stacks) > 1 or not teacher.causal or teacher.head is None or teacher.classes is not None:
        raise UnsupportedError(
            f"teacher = {teacher.name}: a causal language model is meant", key="teacher", value=teacher.name
        )
    words, own = teacher.head.V, a.model.head.V if a.model.head is not None else 0
    if words != own:
        raise InputError(
            f"the teacher has {words:,} words and the student {own:,}: their distributions cannot be compared",
            key="teacher", value=teacher.name, hint="a teacher of the student's family; GOLD, which compares others' "
            "words, is not modelled",
        )  # fmt: skip
    r = a.recipe
    form = checkpoint_format(teacher, None) if a.w.precision not in ("fp32", "tf32") else r.weights
    attention, told = kernel(teacher, a.w.attention or "sdpa", dtype=r.autocast or form, device=None)
    packing, shares = as_packed("teacher", teacher, a.w.teacher_quant, form, r.autocast or form)
    reading = Ahead(
        teacher, whole, batch=a.rows, tokens=r.tokens, kernel=attention, weights=form, autocast=r.autocast,
        casts=packing is None, tuning=packing, makes_mask=r.makes_mask,
    )  # fmt: skip
    rollout = _rollout(a)
    return Parts(
        Distilled(a.w.completion_length, "jsd", form),
        (resident("teacher", teacher, form, reading, shares),),
        rollout,
        empties=frozenset(["forward"]),
        values={"teacher": teacher.name or teacher.model_type, "teacher_quant": a.w.teacher_quant},
        told=tuple(f"teacher: {t}" for t in told),
        left_out=() if rollout is not None else ("answers that the student writes itself: --rollout generate",),
    )


def _rollout(a: Asked) -> Rollout | None:
    """What the student writes itself in a part of the steps; None where that is not asked for."""
    w, r = a.w, a.recipe
    if w.rollout is None:
        return None
    if w.rollout != "generate":
        raise InputError(f"rollout = {w.rollout}: a student writes by itself", key="rollout", value=w.rollout)
    if r.recompute:
        raise UnsupportedError(
            "with recomputation GKD writes without a cache, which is not modelled", key="rollout", value=w.rollout,
            hint="--recompute none",
        )  # fmt: skip
    completion = w.completion_length or COMPLETION
    if completion >= r.tokens:
        raise InputError(
            f"completion_length = {completion} leaves no prompt in sequences of {r.tokens}", key="completion_length",
            value=completion,
        )  # fmt: skip
    cache = f"generation: keys and values of {a.rows} sequences of {r.tokens:,} tokens"
    return Rollout(run=written(a, a.rows, completion), cache=cache)


OBJECTIVE: Final = Objective("distill", distill, keys=("teacher", "teacher_quant", "completion_length", "rollout"))
