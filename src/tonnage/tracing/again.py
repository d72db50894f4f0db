"""Modules of a layer under a checkpoint of their own."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from torch.utils.checkpoint import checkpoint

from tonnage.errors import UnsupportedError
from tonnage.tracing import models

ENDINGS: Final = {"attention": ("Attention",), "mlp": ("MLP", "FeedForward"), "moe": ("SparseMoeBlock", "MoE")}
"""How the names of their classes end."""
SHARED: Final = ("shared_expert", "shared_experts", "shared_mlp")
"""What experts' modules call those that every token uses."""


def _checkpointed(run: Any, *args: Any, **kwargs: Any) -> Any:
    # The device, and with that autocast, is told by what is handed on by position.
    if not args and "hidden_states" in kwargs:
        args = (kwargs.pop("hidden_states"),)
    return checkpoint(run, *args, use_reentrant=False, **kwargs)


def _known_as(part: str, layer: Any) -> list[Any]:
    if part == "shared_experts":
        return [child for name, child in layer.named_modules() if name.rpartition(".")[2] in SHARED]
    return [child for child in layer.children() if type(child).__name__.endswith(ENDINGS[part])]


def checkpoint_modules(model: Any, parts: tuple[str, ...]) -> None:
    """Run the parts of every layer under ``torch.utils.checkpoint`` without reentrance.

    Raises:
        UnsupportedError: no module of the layers is known as such a part.
    """
    for part in parts:
        found = [child for _, layer in models.layers_of(model) for child in _known_as(part, layer)]
        if not found:
            raise UnsupportedError(
                f"the layers of {type(model).__name__} have no module that is known as {part}", key="recompute",
                value=part, hint="--recompute full",
            )  # fmt: skip
        for child in found:
            child.forward = partial(_checkpointed, child.forward)
