"""The few dimensions of a model that the rules of thumb know."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Layer, Model

TOKENS: Final = 1024
"""Tokens of a sequence where a text names none. [token]"""


def dimensions(model: Model) -> dict[str, int | bool]:
    """Arguments of the rules for a real model, by the names that the rules give them.

    Args:
        model: any model; where its layers differ, the first that has the dimension speaks for all.
    """
    layers = {stack.name: len(stack.layers) for stack in model.stacks}
    decoder = layers.get("decoder", 0) if len(layers) > 1 else len(model.decoder.layers)
    deep = sum(layers.values())
    width = model.width
    return {
        "parameters": model.parameters.total,
        "vocabulary": model.vocabulary,
        "width": width,
        "feed_forward": _first(model.decoder.layers, "F") or 4 * width,
        "layers": deep,
        "student_layers": max(1, deep // 2),
        "encoder_layers": layers.get("encoder", 0) if len(layers) > 1 else 0,
        "decoder_layers": decoder,
        "output": model.head is not None and model.head.alias_of is None,
        "tokens": min(TOKENS, model.positions or TOKENS),
    }


def _first(layers: tuple[Layer, ...], attribute: str) -> int | None:
    """A dimension of the first block that has it."""
    for layer in layers:
        for sub in layer.sublayers:
            found: Any = getattr(sub.block, attribute, None)
            if isinstance(found, int):
                return found
    return None
