"""GRPO settled: who writes the completions, what is kept of them, which passes score them."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.objectives.policy import LeaveOneOut, Policy
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.beside import Beside, resident
from tonnage.estimate.objectives._objective import Asked, Objective, Parts
from tonnage.estimate.objectives._reading import ahead, beside, scored, whole, written_last
from tonnage.estimate.objectives._rollouts import ROLLOUTS, SHARE, beside_it, written
from tonnage.estimate.rollout import Rollout
from tonnage.estimate.settle import checkpoint_format, kernel
from tonnage.memory.ahead import Ahead, Ends
from tonnage.memory.passes import blocks
from tonnage.timeline import Level

COMPLETION: Final = 512
GENERATIONS: Final = 8
"""Defaults of trl v1.16.0 trl/trainer/grpo_config.py."""
DIVIDES: Final = (1, 10)
"""Release of TRL from which on logits are divided by the temperature into another tensor."""


def grpo(a: Asked) -> Parts:
    """The update after a rollout, with probabilities of those who wrote and of whom it is compared with."""
    return rolled(a, GENERATIONS)


def rolled(a: Asked, group: int, *, apart: bool = False) -> Parts:
    """The update after a rollout.

    Args:
        a: what is asked.
        group: completions of a prompt, where nothing is said.
        apart: each answer is judged as one, against the others of its prompt.

    Raises:
        InputError: the batch holds no whole groups, or an engine's share has no device.
        UnsupportedError: a reward model whose forward pass is not modelled.
    """
    w, r = a.w, a.recipe
    completion = w.completion_length or min(COMPLETION, r.tokens - 1)
    if completion >= r.tokens:
        raise InputError(
            f"completion_length = {completion} leaves no prompt in sequences of {r.tokens}", key="completion_length",
            value=completion, hint=f"--seq {completion + 512}",
        )  # fmt: skip
    steps = w.steps_per_generation or r.accumulate
    generations = w.generations or group
    generated = r.batch * steps
    if generations < 2:
        raise InputError(
            f"generations = {generations}: completions of a prompt are judged against each other", key="generations",
            value=generations, hint="--generations 2, or more",
        )  # fmt: skip
    if generated % generations:
        raise InputError(
            f"{r.batch} x {steps} completions are no whole groups of {generations}", key="generations",
            value=generations, hint=f"--batch {generations}",
        )  # fmt: skip
    how = (w.rollout or "generate").lower()
    if how not in ROLLOUTS:
        raise InputError(f"rollout is one of {', '.join(ROLLOUTS)}, not {how!r}", key="rollout", value=how)
    engine = how != "generate"
    # An engine's probabilities are corrected by the policy's own; so are those of a policy that has been updated since.
    iterations = w.iterations or 1
    every = steps * iterations
    before = engine or apart or r.accumulate % every != 0
    compared = a.reference != "none"
    kept = before + compared + 2 * engine
    others, readings = _scoring(a, completion, generated, before=before)
    share, words = beside_it(a, how)
    # Ids and masks as they were written and joined, and the labels of a pass.
    scoring = 8 * (4 * generated + r.batch) * r.tokens
    rollout = Rollout(
        run=written(a, generated, completion) if how == "generate" else None,
        cache=f"generation: keys and values of {generated} sequences of {r.tokens:,} tokens",
        engine=share, sleeps=how == "vllm-sleep", words=words, scoring=Level(scoring, blocks(scoring)),
        readings=tuple(readings), first=every % r.accumulate == 0,
    )  # fmt: skip
    values: dict[str, Any] = {
        "completion_length": completion, "generations": generations, "steps_per_generation": steps,
        "iterations": iterations, "rollout": how,
        "rollout_share": (w.rollout_share or SHARE) if how in ("vllm", "vllm-sleep") else None,
    }  # fmt: skip
    told = [f"{generated} completions of {completion:,} tokens are written at once, {generated // generations} prompts"]
    if how == "server":
        told.append("the engine that writes them has devices of its own")
    left = ["sampling beyond the last logits in fp32", "tools, environments and images"]
    loss = (LeaveOneOut if apart else Policy)(
        completion, generated, 0 if apart else kept, compared and not apart, a.how, a.release < DIVIDES
    )
    return Parts(
        loss, tuple(others), rollout, values=values, told=tuple(told),
        left_out=tuple(left),
    )  # fmt: skip


def _ends(a: Asked, completion: int, *, own: bool) -> Ends:
    """Log-probabilities of what was written; tiles of the trained model's ``own`` head tell the entropy as well."""
    if a.how == "tiles":
        return scored(completion, ("entropy",) if own else ())
    return written_last(completion, a.how, in_place=a.release < DIVIDES)


def _scoring(
    a: Asked, completion: int, generated: int, *, before: bool
) -> tuple[list[Beside], list[tuple[str, Ahead]]]:
    """Models beside, and the passes over what was written."""
    others: list[Beside] = []
    readings: list[tuple[str, Ahead]] = []
    if before:
        readings.append(("log-probabilities", ahead(a, _ends(a, completion, own=True), own=True)))
    if a.reference != "none":
        off = a.reference == "adapter"
        readings.append(("reference", ahead(a, _ends(a, completion, own=off), off=off)))
        others.append(beside(a, "reference", None))
    judge = a.beside.get("reward_model")
    if judge is not None:
        if judge.classes is None or judge.head is None or not judge.head.pooled or len(judge.stacks) > 1:
            raise UnsupportedError(
                f"reward_model = {judge.name}: a classifier is meant whose pass is modelled", key="reward_model",
                value=judge.name,
            )  # fmt: skip
        if judge.quantization is not None:
            raise UnsupportedError(
                f"reward_model = {judge.name}: a judge with packed weights ({judge.quantized}) is not modelled",
                key="reward_model", value=judge.name,
            )  # fmt: skip
        form = checkpoint_format(judge, None)
        attention, _ = kernel(judge, a.w.attention or "sdpa", dtype=form, device=None)
        reading = Ahead(
            judge, whole, batch=generated, tokens=a.recipe.tokens, kernel=attention, weights=form, autocast=None,
            casts=False,
        )  # fmt: skip
        readings.append(("reward model", reading))
        others.append(resident("reward model", judge, form, None))
    return others, readings


ROLLED: Final = (
    "reference", "completion_length", "generations", "steps_per_generation", "iterations", "rollout",
    "rollout_share", "reward_model",
)  # fmt: skip
OBJECTIVE: Final = Objective("grpo", grpo, 1, "fused", ("none", "resident", "adapter"), ROLLED, drops=True)
