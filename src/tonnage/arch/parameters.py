"""Counts of a model's parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tonnage.tensors import numel

if TYPE_CHECKING:
    from tonnage.arch.model import Model


class Parameters:
    """Counts of a model's parameters; tied tensors count once, buffers not at all."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def _sum(self, group: str | None = None) -> int:
        return sum(
            times * sum(t.numel for t in inventory if t.role != "buffer" and (group is None or t.role == group))
            for times, inventory in self._model.groups()
        )

    @property
    def total(self) -> int:
        """All parameters that transformers builds."""
        return self._sum()

    @property
    def stored(self) -> int:
        """Those that a checkpoint stores, and what it stores beside them (multi-token prediction)."""
        return self.total - self._model.unstored + numel(self._model.apart)

    def active(self, *, count_embedding: bool) -> int:
        """Parameters that one token uses.

        Papers disagree about the embedding table, so the caller chooses: DeepSeek-V3's 37.6 B count it, its 36.6 B do
        not. The output head is a matrix product and counts either way; a tied one counts as the table does.
        """
        total = 0
        for stack in self._model.stacks:
            for layer, times in stack.distinct():
                unused = (getattr(sub.block, "unused", None) for sub in layer.sublayers)
                total -= times * sum(count() for count in unused if count is not None)
        total += self.total
        if not count_embedding:
            total -= sum(t.numel for stack in self._model.stacks for t in stack.stem.weights() if t.role == "embedding")
        return total

    def by_component(self) -> dict[str, int]:
        """Parameters by role; the parts add up to the whole."""
        parts: dict[str, int] = {}
        for times, inventory in self._model.groups():
            for t in inventory:
                if t.role != "buffer" and t.alias_of is None:
                    parts[t.role] = parts.get(t.role, 0) + times * t.numel
        assert sum(parts.values()) == self.total
        return parts

    def by_layer_kind(self) -> dict[str, int]:
        """Parameters by kind of layer, and outside the layers."""
        parts: dict[str, int] = {}
        for stack in self._model.stacks:
            for layer, times in stack.distinct():
                label = layer.kind if len(self._model.stacks) == 1 else f"{stack.name} {layer.kind}"
                parts[label] = parts.get(label, 0) + times * numel(t for t in layer.weights() if t.role != "buffer")
        parts["outside the layers"] = self.total - sum(parts.values())
        return parts
