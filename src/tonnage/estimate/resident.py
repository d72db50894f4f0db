"""Bytes of what lies on the device before the first step, tensor by tensor, in the order in which it comes there."""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.estimate.beside import tensor_sizes
from tonnage.estimate.training import Step
from tonnage.formats import FORMATS


def resident(run: Step) -> Iterator[int]:
    """Bytes of the tensors that lie on the device before the first step: weights by module, then buffers."""
    model, form = run.model, run.form
    packing = run.recipe.packing
    if packing is not None:
        from tonnage import quant

        for _, t, _ in quant.stored(model, packing.but(by_layer=True)):
            if t.alias_of is None:
                yield (form if t.dtype is None else FORMATS[t.dtype]).nbytes(t.numel)
    else:
        yield from tensor_sizes(model, form)
    yield from beside(run)


def beside(run: Step) -> Iterator[int]:
    """Bytes of what lies beside the model's own tensors: adapters, and what belongs to them."""
    if run.recipe.tuning is not None:
        for t, times in (*run.recipe.adapters, *run.recipe.beside):
            for _ in range(times):
                yield run.bytes_of(t)
