"""Blocks that are counted and not run: what they hold and keep is known, their forward pass is not modelled.

A structure of one family alone is put together here from matrices, norms, single tensors and caches, where a kind of
its own would say no more than its list of tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Protocol

from tonnage.arch.forward import Forward
from tonnage.arch.tape import Value
from tonnage.arch.untraced import untold
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor, numel


class Part(Protocol):
    """Anything that owns tensors."""

    def weights(self) -> Iterator[Tensor]:
        """The tensors, named below the layer."""
        ...


class Loose(Record):
    """Tensors that stand alone."""

    tensors: tuple[Tensor, ...]

    def weights(self) -> Iterator[Tensor]:
        """The tensors."""
        yield from self.tensors


class KeyValues(Record):
    """A cache of keys and values without the matrices that make them.

    Args:
        K: key/value heads.
        H: width of a key head.
        VH: width of a value head; ``H`` when None.
        window: tokens that are kept; None for all.
        cross: they are of the encoder's tokens.
    """

    K: int
    H: int
    VH: int | None = None
    window: int | None = None
    cross: bool = False

    def weights(self) -> Iterator[Tensor]:
        """None."""
        yield from ()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """Keys and values of ``S`` tokens."""
        of = "encoder " if self.cross else ""
        yield Tensor(f"{of}keys", (("B", B), ("S", S), ("K", self.K), ("H", self.H)), "cache")
        yield Tensor(f"{of}values", (("B", B), ("S", S), ("K", self.K), ("H", self.VH or self.H)), "cache")


class Memory(Record):
    """Hidden states of earlier tokens, kept instead of keys and values (XLNet).

    Args:
        D: residual width.
        window: tokens that are kept; None for all.
    """

    D: int
    window: int | None = None

    def weights(self) -> Iterator[Tensor]:
        """None."""
        yield from ()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """What went into the layer for ``S`` tokens."""
        yield Tensor("hidden states", (("B", B), ("S", S), ("D", self.D)), "cache")


class PerToken(Record):
    """What else a block keeps of every token (Reformer's buckets).

    Args:
        states: name, axes without sequences and tokens, and format where it is fixed.
    """

    states: tuple[tuple[str, Axes, str | None], ...]

    def weights(self) -> Iterator[Tensor]:
        """None."""
        yield from ()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """One of each for every token."""
        for name, axes, dtype in self.states:
            yield Tensor(name, (("B", B), ("S", S), *axes), "cache", dtype=dtype)


class Kept(Record):
    """What a block keeps of a sequence, of one size whatever its length.

    Args:
        states: name, axes without the batch, and format where it is fixed.
    """

    states: tuple[tuple[str, Axes, str | None], ...]

    def weights(self) -> Iterator[Tensor]:
        """None."""
        yield from ()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """The same for any ``S``."""
        for name, axes, dtype in self.states:
            yield Tensor(name, (("B", B), *axes), "state", dtype=dtype)


class Routed(Record):
    """The tensors of routed experts, of which a token uses some.

    Args:
        E: experts.
        used: experts that a token uses; None where that is left open.
        tensors: of all experts together.
    """

    E: int
    used: int | None
    tensors: tuple[Tensor, ...]

    def weights(self) -> Iterator[Tensor]:
        """The tensors."""
        yield from self.tensors

    def unused(self) -> int:
        """Parameters of experts that a token does not use."""
        return 0 if self.used is None else numel(self.tensors) // self.E * (self.E - self.used)


class Separate(Record):
    """Experts that are modules of their own, of which a token uses a few (Switch Transformers).

    Args:
        path: of an expert, but for its number.
        E: experts.
        used: experts that a token uses.
        block: one expert.
    """

    path: str
    E: int
    used: int
    block: Part

    def _one(self) -> tuple[Tensor, ...]:
        return tuple(Tensor(t.name, t.axes, "expert", t.dims, None, t.alias_of, t.dtype) for t in self.block.weights())

    def weights(self) -> Iterator[Tensor]:
        """Every expert's tensors."""
        one = self._one()
        for index in range(self.E):
            for t in one:
                yield t.placed(f"{self.path}{index}.")

    def unused(self) -> int:
        """Parameters of experts that a token does not use."""
        return numel(self._one()) * (self.E - self.used)


class Parts(Record):
    """Parts that work together as one block.

    Args:
        what: the block, for messages.
        parts: blocks, matrices, norms, tensors, caches.
    """

    working_set_modelled: ClassVar[bool] = False
    """Whether the default path's forward pass is modelled."""

    what: str
    parts: tuple[Part, ...]

    @property
    def window(self) -> int | None:
        """The window of the part that has one."""
        found = [getattr(part, "window", None) for part in self.parts]
        return next((window for window in found if window is not None), None)

    def weights(self) -> Iterator[Tensor]:
        """The tensors of every part."""
        for part in self.parts:
            yield from part.weights()

    def unused(self) -> int:
        """Parameters that a token does not use."""
        return sum(part.unused() for part in self.parts if hasattr(part, "unused"))

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """What every part keeps of a sequence."""
        for part in self.parts:
            if hasattr(part, "state"):
                yield from part.state(B, S)

    def expanded_state(self, B: int, S: int) -> Iterator[Tensor]:
        """The same, with a latent cache as the heads' own keys and values."""
        for part in self.parts:
            state = getattr(part, "expanded_state", None) or getattr(part, "state", None)
            if state is not None:
                yield from state(B, S)

    def forward(self, f: Forward, x: Value) -> Value:
        """Not modelled."""
        raise untold(self.what)
