"""Fine-tuning settled: what has adapters, how the frozen model lies on the device, what runs in which format."""

from __future__ import annotations

from typing import Final

from tonnage import quant
from tonnage.arch.adapters import LoRA, Packed, Tuning, packed
from tonnage.arch.model import Model
from tonnage.errors import InputError, UnsupportedError
from tonnage.formats import FORMATS
from tonnage.memory.adapters import adapters, local_names, targeted
from tonnage.memory.weights import Share, stored
from tonnage.quant import Recipe
from tonnage.record import Record
from tonnage.tensors import Tensor
from tonnage.workload.training import Train

ADAPTERS: Final = "fp32"
"""peft casts adapters that it makes over 16-bit weights (``autocast_adapter_dtype``)."""


class Tuned(Record):
    """What fine-tuning makes of a model.

    Args:
        tuning: what stands for its matrices in a pass.
        trained: the adapters' tensors with how often each stands.
        shares: its weights by part and format; empty where they are not packed.
        packing: how they are packed; None where they are not.
        weights: format of the weights that are not packed.
        targets: module names that have adapters, as they were matched.
        caveats: what has to be said.
    """

    tuning: Tuning
    trained: tuple[tuple[Tensor, int], ...]
    shares: tuple[Share, ...]
    packing: Recipe | None
    weights: str
    targets: tuple[str, ...]
    caveats: tuple[str, ...]


def tuned(model: Model, w: Train, recipe: Recipe | None, weights: str, compute: str) -> Tuned:
    """Settle a workload with adapters.

    Args:
        model: that is fine-tuned.
        w: the workload; its ``lora_rank`` is given.
        recipe: how the frozen weights are packed; None where they are not.
        weights: format of weights that are not packed.
        compute: format that products with packed weights are computed in.

    Raises:
        InputError: a target matches nothing.
        UnsupportedError: packed by a method whose backward pass is not modelled.
    """
    assert w.lora_rank is not None
    found = quant.entries(model, by_layer=False)
    targets = targeted(model, found, w.lora_targets)
    caveats: list[str] = []
    matrices: Packed | None = None
    shares: tuple[Share, ...] = ()
    if recipe is not None:
        # The first product casts its bias for good.
        recipe = recipe.but(loaded_bias=compute)
        matrices, shares, weights = _packed(model, w, recipe, weights, compute)
        caveats.append(f"{recipe.title}: the frozen weights")
    lora = LoRA(
        modules=local_names(model, [m.module for _, m in targets]),
        rank=w.lora_rank,
        dropout=w.lora_dropout or 0.0,
        dtype=ADAPTERS,
    )
    return Tuned(
        tuning=Tuning(packed=matrices, lora=lora),
        trained=tuple(adapters(targets, w.lora_rank, ADAPTERS)),
        shares=shares,
        packing=recipe,
        weights=weights,
        targets=tuple(dict.fromkeys(m.module.rpartition(".")[2] for _, m in targets)),
        caveats=tuple(caveats),
    )


def _packed(
    model: Model, w: Train, recipe: Recipe, weights: str, compute: str
) -> tuple[Packed, tuple[Share, ...], str]:
    """The packed matrices, all weights by part, and the format of those that stay as they are."""
    if recipe.trains != "unpacks":
        why = (
            "how much its outliers take depends on the data"
            if recipe.trains
            else "its backward pass is not modelled yet"
        )
        raise UnsupportedError(
            f"training beside weights packed by {recipe.title}: {why}", key="quant", value=w.quant,
            hint="--quant nf4 or nf4-dq",
        )  # fmt: skip
    if w.kbit_prepared:
        # prepare_model_for_kbit_training casts every 16-bit weight that is not packed.
        weights = "fp32"
    shares = stored(model, FORMATS[weights], recipe)
    names = quant.packed_modules(model, recipe)
    return packed(recipe.trains, local_names(model, names), compute, recipe.nested), shares, weights


def check(w: Train) -> None:
    """Refuse keys of adapters where there are none.

    Raises:
        InputError: ``lora_targets`` and the like without ``lora_rank``.
        UnsupportedError: packed weights without adapters.
    """
    if w.lora_rank is not None:
        return
    for key in ("lora_targets", "lora_dropout"):
        if getattr(w, key) not in (None, ()):
            raise InputError(
                f"{key} is said, and no lora_rank", key=key, value=str(getattr(w, key)), hint="--lora-rank 16"
            )
    if w.kbit_prepared or w.quant not in (None, "none"):
        key = "quant" if w.quant not in (None, "none") else "kbit_prepared"
        raise UnsupportedError(
            f"{key} = {getattr(w, key)}: packed weights are not trained themselves", key=key,
            value=str(getattr(w, key)), hint="--lora-rank 16 trains adapters beside them",
        )  # fmt: skip
