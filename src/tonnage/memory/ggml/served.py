"""What a program that runs llama.cpp is asked to hold, and what it starts it with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

from tonnage.devices import Device
from tonnage.quant import Recipe
from tonnage.record import Record
from tonnage.releases import Releases, Version

if TYPE_CHECKING:
    from tonnage.placement.mesh import Mesh


class Builds(Releases):
    """Releases of llama.cpp: numbered builds (b4370) until 0.x, and the fork ik_llama.cpp (``ik``)."""

    def read(self, text: str | None, *, key: str) -> tuple[Version, str | None]:
        """As ``Releases.read``; a build is older than every release."""
        if text is not None:
            number = text[1:] if text[:1] in ("b", "B") else ""
            if number.isdigit() or text == "ik":
                told = (
                    f"llama.cpp {text}: caches and weights as in 0.5, the compute buffer as a range around that of 0.5"
                )
                return (-1, int(number or 0)), told
        return super().read(text, key=key)


class Served(Protocol):
    """What an engine is asked to hold: of an engine's ``Setting``, what is read here."""

    @property
    def version(self) -> Version:
        """Release."""
        ...

    @property
    def dtype(self) -> str:
        """Format of weights that are not quantized."""
        ...

    @property
    def recipe(self) -> Recipe | None:
        """How quantized weights are stored."""
        ...

    @property
    def context(self) -> int:
        """Tokens of one sequence."""
        ...

    @property
    def concurrency(self) -> int:
        """Sequences held at once."""
        ...

    @property
    def mesh(self) -> Mesh:
        """Degrees of parallelism."""
        ...

    @property
    def device(self) -> Device | None:
        """Each rank's; None where none is named."""
        ...

    @property
    def in_use(self) -> int:
        """What others hold on it. [byte]"""
        ...

    @property
    def said(self) -> Mapping[str, Any]:
        """Keys that were given."""
        ...

    @property
    def search(self) -> bool:
        """Whether the largest context is looked for."""
        ...

    def but(self, **changes: Any) -> Self:
        """The same with changes."""
        ...


class Defaults(Record):
    """What a program that runs llama.cpp starts it with.

    Args:
        engine: its name.
        reference: its code.
        slots: sequences that share one cache where it is not told how many.
        batch, ubatch: tokens that it takes at once, and of one pass.
        ranged: it brings builds of llama.cpp of its own, so that the compute buffer is a range.
        early: its llama.cpp is of before 2026, which offloads the output last and makes room for logits of every token.
        not_modelled: what is left out beside what always is.
    """

    engine: str
    reference: str
    slots: int
    batch: int
    ubatch: int
    ranged: bool = False
    early: bool = False
    not_modelled: tuple[str, ...] = ()
