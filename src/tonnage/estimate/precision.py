"""Precision settled: formats of weights, products, gradients and states, by the presets that users say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.settle import checkpoint_format
from tonnage.formats import FORMATS
from tonnage.workload.training import Train

if TYPE_CHECKING:
    from tonnage.arch.float8 import Narrow

PRESETS: Final = {
    # precision: format of weights, gradients and states; format that autocast computes in
    "fp32": ("fp32", None),
    "tf32": ("fp32", None),
    "bf16": ("bf16", None),
    "bf16-master": ("bf16", None),
    "fp16": ("fp16", None),
    "bf16-mixed": ("fp32", "bf16"),
    "fp16-mixed": ("fp32", "fp16"),
    "bf16-autocast": ("bf16", "bf16"),
    "fp16-autocast": ("fp16", "fp16"),
    "fp8": ("bf16", None),
    "fp8-autocast": ("bf16", "bf16"),
    "fp8-mixed": ("fp32", "bf16"),
}
"""What is said of the products alone: the layers' matrices are cast to fp8 for each (fp8...)."""


def settled(model: Model, w: Train, default: str) -> tuple[str, str, str | None]:
    """The preset, the format of the weights and what autocast computes in.

    Args:
        model: whose checkpoint has a format.
        w: what is asked.
        default: the stack's own where the whole model is trained; empty for the checkpoint's.
    """
    stored = checkpoint_format(model, w.dtype)
    precision = w.precision or ("" if w.adapts else default) or stored
    if precision not in PRESETS:
        raise UnsupportedError(
            f"precision = {precision} is not modelled yet", key="precision", value=precision,
            hint=f"one of {', '.join(PRESETS)}",
        )  # fmt: skip
    weights, autocast = PRESETS[precision]
    if w.adapts and autocast is not None:
        # What is frozen keeps the checkpoint's format: only what is trained is made in fp32.
        weights = stored
    if w.adapts and precision == "bf16-master":
        raise UnsupportedError(
            "master weights of adapters are not modelled: peft makes them in fp32", key="precision", value=precision,
            hint="--precision bf16",
        )  # fmt: skip
    wanted = {
        "dtype": weights,
        "weights_dtype": weights,
        "compute_dtype": autocast or weights,
        **optimized(precision, weights),
    }
    for key, value in wanted.items():
        said = getattr(w, key)
        if said is None or said == value:
            continue
        if (key != "master" and said in FORMATS) or key == "master":
            raise UnsupportedError(
                f"{key} = {said} is not modelled with precision = {precision}, which has {value}", key=key, value=said,
                hint=f"presets: {', '.join(PRESETS)}",
            )  # fmt: skip
        checkpoint_format(model, str(said))
    return precision, weights, autocast


def optimized(precision: str, weights: str) -> dict[str, Any]:
    """What the optimizer steps: copies in fp32, or the weights themselves."""
    master = precision == "bf16-master"
    return {"grad_dtype": "fp32" if master else weights, "state_dtype": "fp32" if master else weights, "master": master}


def narrowed(
    model: Model, w: Train, precision: str, tokens: int, device: Device | None
) -> tuple[Narrow | None, tuple[tuple[int, int], ...], tuple[str, ...]]:
    """What is multiplied in fp8, what lies beside that, and what has to be said of it."""
    if not precision.startswith("fp8"):
        if w.fp8_recipe is not None:
            raise InputError(
                f"fp8_recipe with precision = {precision}", key="fp8_recipe", value=w.fp8_recipe, hint="--precision fp8"
            )
        return None, (), ()
    # Imported late: most answers do without.
    from tonnage.estimate.float8 import settled

    return settled(model, w, tokens, device)
