"""Layers that cache keys and values in a training step, though nothing is written.

The Trainer turns ``use_cache`` off in the config that it is given; the language model inside of one that sees or hears
has a config of its own, which stays as it was. What is cached is a copy, joined to an empty tensor; the model's output
holds it.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/trainer.py (``use_cache``) and
.../cache_utils.py (``DynamicLayer.update``, ``DynamicSlidingWindowLayer``).
"""

from __future__ import annotations

from collections.abc import Callable

from tonnage.arch import ops
from tonnage.arch.eager import by_heads
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Storage, Value

HEADS = 4
"""Axes of keys and values; a state that a mixer has made itself has fewer."""


class Caching:
    """One layer's forward pass with an empty cache."""

    def __init__(self, run: Callable[[Forward, Value], Value], *, held: bool = False) -> None:
        self._run = run
        # Whether the caller holds the output through the backward pass.
        self._held = held
        self._cache: list[Value] = []
        self.found: list[Storage] = []

    def __call__(self, f: Forward, x: Value) -> Value:
        """The layer's output."""
        f.store = self._stored
        y = self._run(f, x)
        f.store = None
        return y

    def _stored(self, new: tuple[Value, ...], window: int | None) -> tuple[Value, ...]:
        # What is joined has the format of the keys, which autocast leaves wider than values.
        form = new[0].dtype
        made = []
        if window is not None:
            # A cache with a window brings the length of that to the device when it first sees tokens.
            tape = new[0].tape
            tape.category = "kv_cache"
            self._cache.append(tape.new("length of the window", (), "int64"))
            tape.category = "activations"
        for part in new:
            if len(part.axes) == HEADS:
                tape = part.tape
                tape.category = "kv_cache"
                part = ops.cat((tape.new("nothing yet", (("X", 0),), form), part), by_heads(part), "cached")
                tape.category = "activations"
            self._cache.append(part)
            made.append(part.view(part.axes))
        return tuple(made)

    def let_go(self) -> list[Storage]:
        """What was cached; the model's output holds it, and this no more."""
        found = [v.storage for v in self._cache]
        self._cache.clear()
        # Those of the graph stay while the layer's backward pass runs.
        self._cache += [Value(s, s.axes, s.dtype) for s in found if self._held and s.owners]
        return found

    def awaited(self) -> list[Storage]:
        """No gradient waits: nothing was there."""
        self._cache.clear()
        return []
