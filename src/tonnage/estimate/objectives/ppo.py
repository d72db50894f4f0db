"""Proximal policy optimization: actor, critic, reward model and reference on one device.

TRL's last release with a trainer of it is followed, 1.12: the actor writes with its cache, and keeps the logits of
every word at every token until the next are written; reference, critic and reward model score what it wrote; then
actor and critic are updated together.

Reference: https://github.com/huggingface/trl/blob/v1.12.0/trl/experimental/ppo/ (ppo_trainer.py, ppo_config.py)
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.arch.objectives.actor_critic import Clipped, Valued, caches, judged, placed, referred
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.beside import resident
from tonnage.estimate.objectives._objective import Asked, Objective, Parts
from tonnage.estimate.objectives._reading import beside
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.rollout import Rollout
from tonnage.estimate.serving import Run, Session
from tonnage.estimate.settle import kernel
from tonnage.estimate.switches import refuse
from tonnage.formats import FORMATS
from tonnage.memory.ahead import Ahead
from tonnage.memory.cache import state_bytes
from tonnage.memory.passes import blocks
from tonnage.timeline import Level
from tonnage.workload.training import Train

COMPLETION: Final = 53
TOGETHER: Final = 64
"""Defaults of trl v1.12.0 trl/experimental/ppo/ppo_config.py: response_length, local_rollout_forward_batch_size."""
DIRECTLY: Final = "PPOConfig's gradient_checkpointing is not heeded: the actor's layers are meant, the critic keeps all"
LEFT_OUT: Final = (
    "sampling beyond the last logits in fp32", "samples that are written for the log",
    "minibatches that are no whole pass",
)  # fmt: skip


def ppo(a: Asked) -> Parts:
    """The update of both after a rollout.

    Raises:
        InputError: no reward model, or one with another vocabulary; answers as long as the sequences.
        UnsupportedError: a judge whose forward pass is not modelled.
    """
    w, r = a.w, a.recipe
    _check(w, r)
    reward, critic = (_judge(a, key) for key in ("reward_model", "critic"))
    completion = w.completion_length or min(COMPLETION, r.tokens - 1)
    if completion >= r.tokens:
        raise InputError(
            f"completion_length = {completion} leaves no prompt in sequences of {r.tokens}", key="completion_length",
            value=completion, hint=f"--seq {completion + 512}",
        )  # fmt: skip
    generated = r.batch * r.accumulate
    together = min(w.rollout_batch or TOGETHER, generated)
    stored = not r.recompute
    recipe = _of_critic(a, critic)
    assert a.model.head is not None
    turns = -(-generated // together)
    full = state_bytes(a.model, together, r.tokens - 1, FORMATS[r.weights], latent=True)
    # What a pass makes of the ids: those without padding, and a mask.
    scoring = 9 * together * r.tokens
    rollout = Rollout(
        run=_written(a, together, completion), turns=turns, full=full, empties=True,
        table=4 * together * a.model.head.V, written=completion,
        cache=f"generation: keys and values of {together} sequences of {r.tokens:,} tokens",
        scoring=Level(scoring, blocks(scoring)),
        readings=(
            ("reference", _reference(a, together, completion)),
            ("critic", _scored(a, critic, together)),
            ("reward model", _scored(a, reward, together)),
        ),
        first=True,
    )  # fmt: skip
    return Parts(
        Clipped(completion, generated, stored),
        (beside(a, "reference", None), resident("reward model", reward, r.weights, None)),
        rollout,
        critic=(placed(critic), recipe),
        values={
            "completion_length": completion, "rollout": "generate", "rollout_batch": together,
            "reward_model": reward.name or reward.model_type, "critic": critic.name or critic.model_type,
        },
        told=(
            "as TRL 1.12 has it, the last release with a trainer of PPO",
            f"{generated} answers of {completion:,} tokens are written, {together} at once; the logits of every word "
            "at every one of these tokens stay in fp32 until the next are written",
            *((DIRECTLY,) if r.recompute else ()),
        ),
        left_out=LEFT_OUT,
    )  # fmt: skip


def _check(w: Train, r: Recipe) -> None:
    """Refuse what is not modelled of a step that trains two models."""
    against = {
        "optimizer_in_backward": r.in_backward, "offload": r.offloads, "ema": r.averaged,
        "virtual_tokens": w.virtual_tokens is not None, "fp8_recipe": r.narrow is not None,
        "kernels": r.fused is not None,
    }  # fmt: skip
    refuse(w, against, "{key} with objective = ppo is not modelled")


def _judge(a: Asked, key: str) -> Model:
    """The reward model, or the critic."""
    found = a.beside.get(key)
    if found is None:
        raise InputError("objective = ppo needs a reward model", key="reward_model", hint="--reward-model MODEL")
    words, own = found.vocabulary, a.model.vocabulary
    if words != own:
        raise InputError(
            f"{key} = {found.name} has {words:,} words and the actor {own:,}: TRL hands both the same ids", key=key,
            value=found.name,
        )  # fmt: skip
    if found.classes is None or found.head is None or not found.head.pooled or len(found.stacks) > 1:
        raise UnsupportedError(
            f"{key} = {found.name}: a classifier is meant whose pass is modelled", key=key, value=found.name
        )
    if found.quantization is not None:
        raise UnsupportedError(
            f"{key} = {found.name}: a judge with packed weights ({found.quantized}) is not modelled", key=key,
            value=found.name,
        )  # fmt: skip
    return found


def _of_critic(a: Asked, critic: Model) -> Recipe:
    """The critic's part of the step: all of it is trained, and nothing of it is computed again."""
    r = a.recipe
    attention, _ = kernel(critic, a.w.attention or "sdpa", dtype=r.autocast or r.weights, device=None)
    return r.but(
        kernel=attention, loss=Valued(), recompute=False, plan=None, offloads=False, keep_logits=False, tuning=None,
        adapters=(), beside=(), own=(), shares=(), packing=None, input_grads=False, fused=None, narrow=None, scales=(),
        drops=False,
    )  # fmt: skip


def _reference(a: Asked, rows: int, completion: int) -> Ahead:
    """Outside of autocast, which is around the pass of both models alone."""
    r = a.recipe
    tuning = None if r.tuning is None or a.reference != "adapter" else r.tuning.but(method=None, own=None)
    return Ahead(
        placed(a.model), referred(completion), batch=rows, tokens=r.tokens, kernel=r.kernel, weights=r.weights,
        autocast=None, casts=False, tuning=tuning, makes_mask=r.makes_mask, hands=True, store=caches,
    )  # fmt: skip


def _scored(a: Asked, judge: Model, rows: int) -> Ahead:
    r = a.recipe
    attention, _ = kernel(judge, a.w.attention or "sdpa", dtype=r.weights, device=None)
    return Ahead(
        placed(judge), judged, batch=rows, tokens=r.tokens, kernel=attention, weights=r.weights, autocast=None,
        casts=False, makes_mask=r.makes_mask, hands=True,
    )  # fmt: skip


def _written(a: Asked, rows: int, completion: int) -> Run:
    """The actor's own ``generate``, outside of autocast."""
    r = a.recipe
    session = Session(
        dtype=r.weights, kernel=r.kernel, sequences=rows, context=r.tokens - 1, prompt=r.tokens - completion,
        logits="last", latent=True, workspace=0, shares=r.shares, tuning=r.tuning,
    )  # fmt: skip
    return Run(placed(a.model), session)


KEYS: Final = ("reference", "completion_length", "reward_model", "critic", "rollout_batch")
OBJECTIVE: Final = Objective("ppo", ppo, 1, "full", ("resident", "adapter"), KEYS)
