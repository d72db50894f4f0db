"""What a forward pass knows besides its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from tonnage.arch.tape import Tape, Value

AttentionKernel = Literal["eager", "flash", "efficient", "cudnn", "math"]


class Forward:
    """The circumstances of one pass.

    Args:
        tape: where storages are born and die.
        kernel: what computes attention.
        training: whether dropout is on.
        cached: tokens already in the cache.
        store: called with a layer's new keys and values (or other state) when a cache is kept; returns what is attended.
        mixer: what computes recurrent mixers: kernels of their own, or operations of torch where these are missing.

    ``held`` is what the modelled layer's local variables still name when it is no longer used; a layer lets go of it
    when it returns. ``local`` is the same for a block.
    """

    __slots__ = ("bias", "cached", "held", "kernel", "local", "masks", "mixer", "rotary", "store", "tape", "training")

    def __init__(
        self,
        tape: Tape,
        kernel: AttentionKernel,
        *,
        training: bool = False,
        cached: int = 0,
        store: Callable[[tuple[Value, ...], int | None], tuple[Value, ...]] | None = None,
        mixer: Literal["kernels", "torch"] = "kernels",
    ) -> None:
        self.tape = tape
        self.kernel = kernel
        self.training = training
        self.cached = cached
        self.store = store
        self.mixer = mixer
        self.rotary: dict[str, tuple[Value, Value]] = {}
        self.masks: dict[int | None, Value] = {}
        self.bias: Value | None = None
        self.held: list[Value] = []
        self.local: list[Value] = []

    def shared(self) -> list[Value]:
        """What the pass makes once for all layers: rotary tables, masks, the bias of positions."""
        tables = [v for pair in self.rotary.values() for v in pair]
        return tables + list(self.masks.values()) + ([] if self.bias is None else [self.bias])
