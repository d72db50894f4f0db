"""A language model whose positions have three dimensions, inside of a model that sees."""

from __future__ import annotations

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.grids import GridRotary
from tonnage.arch.model import Layer, Model, Sublayer


def gridded(model: Model, *, overwritten: bool = False, handed: bool = False, style: str | None = None) -> Model:
    """The same with tables of three positions in the place of its own.

    Args:
        model: inside of another one, where it is given embeddings.
        overwritten: the parts of a row are written into the first table.
        handed: the layers are handed position ids.
        style: how queries and keys are turned, where that is another way than the type alone has.
    """
    stack = model.decoder
    stem = stack.stem.but(
        rotary=tuple(
            GridRotary(name=r.name, width=r.width, key=r.key, buffers=r.buffers, overwritten=overwritten)
            for r in stack.stem.rotary
        ),
        position_ids="rotary" if handed else "named",
    )
    changed: dict[int, Layer] = {}

    def turned(layer: Layer) -> Layer:
        if id(layer) not in changed:
            changed[id(layer)] = layer.but(sublayers=tuple(_turned(sub, style) for sub in layer.sublayers))
        return changed[id(layer)]

    layers = stack.layers if style is None else tuple(map(turned, stack.layers))
    return model.but(stacks=(*model.stacks[:-1], stack.but(stem=stem, layers=layers)))


def _turned(sub: Sublayer, style: str | None) -> Sublayer:
    block = sub.block
    return sub.but(block=block.but(rotary_style=style)) if isinstance(block, GroupedQuery) else sub
