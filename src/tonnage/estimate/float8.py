"""fp8 training settled: which matrices are multiplied in fp8, by whose code and by which recipe."""

from __future__ import annotations

from typing import Final

from tonnage.arch.float8 import WAYS, Float8, Narrow
from tonnage.arch.model import Model
from tonnage.arch.transformer_engine import EXPONENT, Blocks, TransformerEngine, workspace
from tonnage.devices import Device
from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.estimate.switches import refuse
from tonnage.tensors import Tensor, size
from tonnage.workload.training import Train

COMPILED: Final = "-compiled"
ENGINE: Final = ("te-delayed", "te-current", "te-mxfp8", "te-block")
RECIPES: Final = (*WAYS, *(way + COMPILED for way in WAYS), *ENGINE)
"""``Float8LinearRecipeName`` of torchao, the same in compiled code, and Transformer Engine's: delayed and current
scaling, ``MXFP8BlockScaling`` and ``Float8BlockScaling``."""

MX: Final = "te-mxfp8"
SINCE: Final = {MX: (10, 12), "te-block": (9, 99)}
"""Major compute capabilities that a recipe runs on: from the first on, below the second (``check_recipe_support``)."""

Settled = tuple[Narrow, tuple[tuple[int, int], ...], tuple[str, ...]]


def settled(model: Model, w: Train, tokens: int, device: Device | None) -> Settled:
    """What multiplies a workload's matrices in fp8, what lies beside them, and what has to be said.

    Args:
        model: that is trained.
        w: the workload.
        tokens: of a pass.
        device: where.

    Raises:
        InputError: an unknown recipe, or a number of tokens that the kernels refuse.
        UnsupportedError: a model or a workload whose fp8 products are not modelled.
    """
    said = (w.fp8_recipe or WAYS[0]).lower().replace("_", "-")
    if said not in RECIPES:
        raise InputError(
            f"unknown fp8_recipe {w.fp8_recipe!r}", key="fp8_recipe", value=w.fp8_recipe,
            nearest=nearest(said, RECIPES), hint=f"one of {', '.join(RECIPES)}",
        )  # fmt: skip
    _alone(model, w)
    multiple = EXPONENT if said == MX else 8 if said in ENGINE else 1 if said.startswith(WAYS[2]) else 16
    if tokens % multiple:
        raise InputError(
            f"batch x seq = {tokens:,}: fp8 products of {said} take multiples of {multiple} tokens", key="seq",
            value=str(w.seq), hint=f"a seq that is a multiple of {multiple}",
        )  # fmt: skip
    if said in ENGINE:
        return _engine(model, said, device)
    compiled = said.endswith(COMPILED)
    found = Float8(said.removesuffix(COMPILED), fused=compiled)  # type: ignore[arg-type]
    casts = "casts in compiled kernels" if compiled else "casts as eager code makes them, through copies in fp32"
    told = (
        f"torchao's Float8Linear ({found.way}) multiplies the layers' matrices in fp8, but for the first and for sides "
        f"that are no multiples of 16, as accelerate converts them: weights stay as they are, inputs are saved in "
        f"their own format, {casts}"
    )
    return found, (), (told,)


def _alone(model: Model, w: Train) -> None:
    """Refuse what fp8 products are not modelled beside."""
    beside = {
        "lora_rank": w.lora_rank is not None or w.adapter is not None,
        "quant": w.quant not in (None, "none"),
        "train_only": bool(w.train_only),
        "freeze_layers": w.freeze_layers is not None,
        "recompute": w.recompute == "selective",
        "optimizer_in_backward": bool(w.optimizer_in_backward),
        "kernels": w.kernels not in (None, "none"),
    }
    if beside["lora_rank"]:
        raise UnsupportedError(
            f"adapters (lora_rank, adapter) beside precision = {w.precision} are not modelled: accelerate converts the "
            "frozen matrices, and those of adapters whose rank is a multiple of 16", key="lora_rank",
            value=str(w.lora_rank), hint="--precision bf16",
        )  # fmt: skip
    refuse(w, beside, f"{{key}} beside precision = {w.precision} is not modelled", hint="--precision bf16")
    roles = {t.role for layer, _ in model.decoder.distinct() for t in layer.weights()}
    if roles & {"expert", "router"}:
        raise UnsupportedError(
            f"fp8 training of experts ({model.model_type}) is not modelled", key="precision", value=w.precision,
            hint="--precision bf16",
        )  # fmt: skip


def _engine(model: Model, said: str, device: Device | None) -> Settled:
    """Transformer Engine in place of every linear module, the head's among them."""
    blocks: Blocks = "mxfp8" if said == MX else "block" if said == "te-block" else ""
    found = TransformerEngine(delayed=said == ENGINE[0], blocks=blocks)
    _runs(said, device)
    if said == MX:
        _divides(model, found)
    modules = sum(_converted(found, t) for t in model.decoder.weights())
    modules += sum(_converted(found, t) for t in (model.head.weights() if model.head is not None else ()))
    told = (
        f"Transformer Engine ({said}) multiplies all matrices in fp8, the head's too: stated from its code"
        f"{'' if blocks else ' for Hopper and before'}, and confirmed by no trace; norms stay the model's own"
    )
    return found, found.beside(modules, workspace(device.architecture if device is not None else "")), (told,)


def _runs(said: str, device: Device | None) -> None:
    """Refuse a recipe on a device whose products do not take it."""
    digits = "" if device is None else device.architecture.removeprefix("sm_").rstrip("abcdef")
    first, end = SINCE.get(said, (0, 99))
    if device is not None and digits.isdigit() and not first <= int(digits) // 10 < end:
        only = f"{first}.0 to {end - 1}.x" if end < 99 else f"{first}.0 or higher"
        raise InputError(
            f"fp8_recipe = {said} needs compute capability {only}, and {device.name} has {int(digits) / 10}",
            key="fp8_recipe", value=said, hint="--fp8-recipe te-delayed",
        )  # fmt: skip


def _divides(model: Model, found: TransformerEngine) -> None:
    """Refuse MXFP8 of matrices with a side that is no multiple of a block."""
    for t in (*model.decoder.weights(), *(model.head.weights() if model.head is not None else ())):
        n = 1 if t.role == "head" else t.dims[0] if t.dims else 0
        if _converted(found, t) and (size(t.axes[:n]) % EXPONENT or size(t.axes[n:]) % EXPONENT):
            raise InputError(
                f"{t.name}: MXFP8 takes sides that are multiples of {EXPONENT}, not {size(t.axes[:n])} x "
                f"{size(t.axes[n:])}", key="fp8_recipe", value=MX, hint="--fp8-recipe te-delayed",
            )  # fmt: skip


def _converted(found: TransformerEngine, t: Tensor) -> bool:
    n = 1 if t.role == "head" else t.dims[0] if len(t.dims) == 2 else 0
    return len(t.axes) > n > 0 and found.takes(t.name, t.axes[n:], t.axes[:n])
