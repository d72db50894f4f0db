"""Who writes completions: the model's own ``generate``, or an engine beside."""

from __future__ import annotations

from typing import Final

from tonnage.errors import InputError
from tonnage.estimate.objectives._objective import Asked
from tonnage.estimate.objectives._reading import ahead, scored
from tonnage.estimate.serving import Run, Session
from tonnage.estimate.settle import checkpoint_format
from tonnage.formats import FORMATS
from tonnage.memory.weights import bytes_of, is_parameter
from tonnage.units import gib

ROLLOUTS: Final = ("generate", "vllm", "vllm-sleep", "server")
SHARE: Final = 0.3
"""Of the device, an engine's in the same process. trl v1.16.0 trl/trainer/grpo_config.py."""


def beside_it(a: Asked, how: str) -> tuple[int, str]:
    """What an engine in the same process takes, and where that comes from."""
    if how not in ("vllm", "vllm-sleep"):
        if a.w.rollout_share is not None:
            raise InputError(
                f"rollout = {how} takes no share of the device", key="rollout_share", value=a.w.rollout_share
            )
        return 0, ""
    share = a.w.rollout_share or SHARE
    if a.memory is None:
        raise InputError(
            f"rollout = {how} takes a share of the device, and none is named", key="gpu", hint="--gpu h100-sxm-80gb"
        )
    size = int(share * a.memory)
    form = checkpoint_format(a.model, None)
    least = bytes_of(a.model.groups(), FORMATS[form], is_parameter)[0].requested
    if size <= least and not a.recipe.shares:
        raise InputError(
            f"rollout_share = {share:g} of {gib(a.memory)} is {gib(size)}, and the engine's weights in {form} are "
            f"{gib(least)}: vLLM finds no memory for its cache", key="rollout_share", value=share,
            hint=f"--rollout-share {(4 - -100 * least // a.memory) / 100:g}, or more",
        )  # fmt: skip
    return size, f"vLLM in the same process: {share:g} of {gib(a.memory)}, weights and cache"


def written(a: Asked, generated: int, completion: int) -> Run:
    """The model's own ``generate`` over everything that is written at once: the last token is not read any more."""
    r = a.recipe
    session = Session(
        dtype=r.autocast or r.weights, kernel=r.kernel, sequences=generated, context=r.tokens - 1,
        prompt=r.tokens - completion, logits="last", latent=True, workspace=0, shares=r.shares, tuning=r.tuning,
        casts=_casts(a),
    )  # fmt: skip
    return Run(a.model, session)


def _casts(a: Asked) -> tuple[tuple[int, ...], ...]:
    """Copies of trained weights that autocast keeps through a forward pass: of each layer, and of the head. [byte]"""
    r = a.recipe
    if r.autocast in (None, r.weights) or r.tuning is not None:
        return ()
    reading = ahead(a, scored(1), own=True)
    assert a.model.head is not None
    head = a.model.head.V * a.model.head.D * FORMATS[str(r.autocast)].bytes
    return (*(tuple(s.nbytes for s in layer.casts) for layer in reading.layers), (head,))
