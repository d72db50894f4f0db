"""What a step trains, tensor by tensor: formats, bytes, order, and the optimizer's state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from tonnage.arch.model import Model
from tonnage.estimate.recipe import Recipe
from tonnage.formats import FORMATS, Format
from tonnage.memory.accounts import summed
from tonnage.memory.optimizers import Stored
from tonnage.tensors import Tensor, size
from tonnage.timeline import Level


class Weighed:
    """The trained tensors of a step, each with how often it stands."""

    model: Model
    recipe: Recipe
    form: Format
    groups: list[tuple[int, tuple[Tensor, ...]]]
    trained: list[tuple[Tensor, int]]

    def stepped_form(self, t: Tensor) -> Format:
        """The format of what the optimizer steps: a master copy's, or the tensor's own."""
        return FORMATS["fp32"] if self.recipe.master else self.form_of(t)

    def form_of(self, t: Tensor) -> Format:
        """The format of a trained tensor."""
        return self.form if t.dtype is None else FORMATS[t.dtype]

    def bytes_of(self, t: Tensor) -> int:
        """What a trained tensor takes. [byte]"""
        return self.form_of(t).nbytes(t.numel)

    def in_order(self) -> Iterator[Tensor]:
        """What is trained, each tensor as often as it stands: module after module, as the optimizer is given them."""
        if self.recipe.tuning is not None:
            for t, times in self.trained:
                yield from (t for _ in range(times))
            return
        trained = {id(t) for t, _ in self.trained}
        groups = iter([inventory for _, inventory in self.groups])
        for stack in self.model.stacks:
            stem, layers = next(groups), {id(layer): next(groups) for layer, _ in stack.distinct()}
            for inventory in (stem, *(layers[id(layer)] for layer in stack.layers), next(groups)):
                yield from (t for t in inventory if id(t) in trained)
        yield from (t for inventory in groups for t in inventory if id(t) in trained)

    def widths(self) -> Iterator[tuple[Tensor, int, int]]:
        """What is trained, with the bytes of an element and how often each tensor stands."""
        for t, times in self.trained:
            yield t, self.stepped_form(t).bytes, times

    def tables(self) -> Iterator[int]:
        """What an optimizer keeps once: each parameter's own, where it is stepped as its gradient is there. [byte]"""
        r, every = self.recipe, list(self.one_by_one())
        for trained in [[t] for t in every] if r.in_backward and not r.optimizer.late else [every]:
            yield from r.optimizer.tables(trained)

    def left(self) -> list[tuple[Tensor, int]]:
        """Parameters that an optimizer in the backward pass does not step, and how often each stands."""
        leaves = self.recipe.optimizer.leaves
        return [(t, times) for t, times in self.trained if leaves is not None and leaves(t.name)]

    def one_by_one(self) -> Iterator[tuple[Tensor, int, int]]:
        """The same, each tensor where it stands."""
        return ((t, self.stepped_form(t).bytes, 1) for t in self.in_order())

    def state_of(self, t: Tensor, state: Callable[[Tensor, str], Iterable[Stored]]) -> Iterator[tuple[str, int]]:
        """Tensors of the optimizer's state for one parameter: names and bytes."""
        own = self.stepped_form(t)
        for name, axes, form in state(t, own.name):
            yield name, (own if form is None else FORMATS[form]).nbytes(size(axes))

    def _state(self, state: Callable[[Tensor, str], Iterable[Stored]]) -> Level:
        return summed((n, times) for t, times in self.trained for _, n in self.state_of(t, state))
