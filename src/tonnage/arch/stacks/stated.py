"""A model as another library's own code runs it: the same tensors, other operations.

``restated`` puts other blocks in place of a model's own, layer by layer, and keeps one object for layers that are
alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Stem
from tonnage.arch.feedforward import Gated, Plain
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Block, Layer, Model, Sublayer
from tonnage.arch.tape import Value


class Renamed(Stem):
    """A stem whose output keeps no name beyond the first layer.

    Args:
        documents: formats of what flex attention has of each token: its document, and where it stands there.
    """

    documents: tuple[str, ...] = ()

    def forward(self, f: Forward, ids: Value) -> Value:
        """As the stem's; what the model's code would name is let go of."""
        f.documents = self.documents
        x = super().forward(f, ids)
        f.frame.clear()
        return x


def can(model: Model) -> bool:
    """Whether a model is of the blocks that other libraries write in their own way: grouped-query attention and a
    feed-forward block in every layer."""
    if len(model.stacks) != 1 or model.classes is not None:
        return False
    if any(type(t) is not Rotary for t in model.decoder.stem.rotary):
        return False
    kinds = [s.block for layer, _ in model.decoder.distinct() for s in layer.sublayers]
    return all(isinstance(b, GroupedQuery | Gated | Plain) for b in kinds) and not any(
        isinstance(b, GroupedQuery) and (b.cross or b.position_bias or b.sinks or b.softcap) for b in kinds
    )


def restated(
    model: Model,
    *,
    block: Callable[[Block], Block],
    norm: Callable[[Norm], Norm],
    sublayer: Callable[[Sublayer], Sublayer] = lambda s: s,
    stem: Callable[[Stem], Stem] = lambda s: s,
) -> Model:
    """The model with other blocks, norms and stem in the same places."""
    made: dict[int, Layer] = {}

    def other(n: Norm | None) -> Norm | None:
        return None if n is None else norm(n)

    def part(s: Sublayer) -> Sublayer:
        return sublayer(
            s.but(block=block(s.block), before=other(s.before), after=other(s.after), of_sum=other(s.of_sum))
        )

    def again(layer: Layer) -> Layer:
        found = made.get(id(layer))
        if found is None:
            found = layer.but(sublayers=tuple(part(s) for s in layer.sublayers), norm=other(layer.norm))
            made[id(layer)] = found
        return found

    return model.but(
        stacks=tuple(
            s.but(layers=tuple(again(layer) for layer in s.layers), norm=other(s.norm), stem=stem(s.stem))
            for s in model.stacks
        )
    )


def like(kind: type[Any], record: Any, **changes: Any) -> Any:
    """A record of another kind with the same fields."""
    fields = {name: getattr(record, name) for name in record._fields}
    return kind(**{**fields, **changes})


def unstored(f: Forward, width: int) -> Value:
    """A view of a buffer that is resident: no bytes of its own."""
    return f.tape.new("part of a table", (("X", 0), ("H", width)), "fp32")
