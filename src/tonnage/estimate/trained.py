"""Which parameters a training step reaches, and which models have one."""

from __future__ import annotations

from collections.abc import Iterable

from tonnage.arch.model import Model
from tonnage.errors import UnsupportedError
from tonnage.memory.passes import Pass
from tonnage.memory.weights import is_parameter
from tonnage.tensors import Inventory, Tensor
from tonnage.workload.training import Train

Standing = Iterable[tuple[Tensor, int]]
"""Tensors with how often each stands."""


def reached(
    model: Model, groups: Iterable[tuple[int, Inventory]], passes: Pass, adapters: Standing | None
) -> tuple[list[tuple[Tensor, int]], list[tuple[Tensor, int]]]:
    """Parameters that a gradient arrives at, and those that it passes by, with how often each stands.

    An optimizer makes a state where it first meets a gradient: what a pass does not reach (a tower, where a step has
    no images) is resident and no more. torch v2.13.0 torch/optim/adam.py, _init_group.
    """
    trained: list[tuple[Tensor, int]] = []
    idle: list[tuple[Tensor, int]] = []
    if adapters is not None:
        from tonnage.memory.adapters import local_names

        everywhere = frozenset().union(*passes.reached.values())
        layers = model.decoder.layers if len(model.stacks) == 1 else ()
        for t, times in adapters:
            # A layer that the pass goes by has modules of the same names as others.
            ran = t.layer is None or not layers or bool(passes.reached.get(id(layers[t.layer])))
            there = ran and local_names(model, [t.name]) <= everywhere
            (trained if there else idle).append((t, times))
        return trained, idle
    owners = [o for s in model.stacks for o in (None, *(id(layer) for layer, _ in s.distinct()), None)]
    for owner, (times, inventory) in zip([*owners, None], groups, strict=True):
        names = passes.reached.get(owner, set())
        for t in inventory:
            if is_parameter(t) and t.alias_of is None:
                (trained if t.name in names else idle).append((t, times))
    return trained, idle


def limited(model: Model) -> bool:
    """Whether experts have a capacity."""
    layers = (layer for stack in model.stacks for layer, _ in stack.distinct())
    return any(hasattr(s.block, "capacity") for layer in layers for s in layer.sublayers)


def reverses(model: Model) -> bool:
    """Whether one step of the backward pass runs all of the model's layers, which keep nothing."""
    return bool(getattr(model.decoder.layers[0], "reversible", False))


def passed_by(idle: Standing) -> list[str]:
    """What is said of parameters that a step on token ids leaves without a gradient, each as often as it stands."""
    left = list(idle)
    if not left:
        return []
    n = sum(t.numel * times for t, times in left)
    roles = dict.fromkeys(t.role for t, _ in left)
    said = ", ".join(role.replace("_", " ") for role in roles)
    more = "; images and sound would add activations of their own" if {"vision", "audio"} & set(roles) else ""
    return [
        f"a step on token ids alone: no gradient reaches {n:,} parameters ({said}), so that the optimizer keeps no "
        f"state for them{more}"
    ]


def trainable(model: Model, w: Train) -> None:
    """Refuse what has no loss, or whose loss is not modelled.

    Raises:
        UnsupportedError: the model or its class.
    """
    if len(model.stacks) > 1:
        if model.pair is None or model.classes is not None:
            what = "classifiers on encoder-decoder models" if model.classes is not None else "encoder-decoder models"
            raise UnsupportedError(
                f"training memory of {what} ({model.model_type}) is not modelled yet", key="model",
                value=model.model_type, hint="tonnage params and tonnage serve answer for it",
            )  # fmt: skip
        # Imported late: most models have one stack.
        from tonnage.estimate.paired import refused

        refused(model, w)
    elif reverses(model):
        # Imported late: most layers keep what they are given.
        from tonnage.estimate import reversible

        reversible.refused(model, w)
    judges = w.objective in ("reward", "rerank") and model.head is not None and bool(model.head.pooled)
    classifies = model.classes is not None and model.head is not None and not judges
    if classifies and model.head is not None and (not model.head.pooled or model.classes == 1):
        why = "with one label, a regression," if model.head.pooled else f"of {model.model_type}"
        raise UnsupportedError(
            f"training a classifier {why} is not modelled yet", key="head", value="classify",
            hint="--head causal or --head masked trains the language model"
            + ("" if w.objective == "reward" else "; --objective reward a judge of answers"),
        )  # fmt: skip
    if model.head is None and w.objective != "embed":
        raise UnsupportedError(
            f"{model.class_name or model.model_type} has no head, so there is no loss to train on", key="model",
            value=model.model_type, hint="--head causal or --head masked adds one; --objective embed trains without",
        )  # fmt: skip
