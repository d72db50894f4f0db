"""A way to store, to load or to make a checkpoint, and what it takes where: lines with their trust."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.errors import TonnageError
from tonnage.evidence import DERIVED, EXACT, Trust
from tonnage.formats import FORMATS, Format, storage_format
from tonnage.memory.store.storing import SHARD, STACKED, Kept, header_bytes, index_bytes, saved, split, written
from tonnage.record import Record
from tonnage.timeline import Component, ranged

PLACES: Final = ("disk", "host", "mapped", "device")
"""Where bytes are: in files; in memory of a process' own; in pages of a mapped file, which the system may drop; on the
device as live tensors."""


class Way(Record):
    """One way, with its lines.

    Args:
        name: short.
        what: in words.
        lines: each in one of ``PLACES``.
    """

    name: str
    what: str
    lines: tuple[Component, ...]

    def total(self, place: str, bound: str = "bytes") -> int | None:
        """Sum of a place's lines; None where the way says nothing of it. [byte]"""
        found = [getattr(line, bound) for line in self.lines if line.tier == place]
        return sum(found) if found else None

    @property
    def trust(self) -> Trust:
        """The weakest of its lines."""
        from tonnage.evidence import TRUSTS

        return max((line.trust for line in self.lines), key=TRUSTS.index, default=EXACT)

    def as_dict(self) -> dict[str, Any]:
        """One row of the JSON contract."""
        held = {place: self.total(place) for place in PLACES}
        told = {place: [self.total(place, "low_bytes"), self.total(place, "high_bytes")] for place in PLACES}
        return {
            "name": self.name,
            "what": self.what,
            **{f"{place}_bytes": n for place, n in held.items() if n is not None},
            "range": {place: told[place] for place, n in held.items() if n is not None},
            "trust": self.trust,
            "lines": [
                {key: getattr(line, key) for key in ("name", "bytes", "low_bytes", "high_bytes", "trust", "why")}
                | {"place": line.tier, "reference": line.reference}
                for line in self.lines
            ],
        }


def line(
    place: str, name: str, size: int, why: str, reference: str, *, trust: Trust = DERIVED, low: int | None = None,
    high: int | None = None,
) -> Component:  # fmt: skip
    """A line; without bounds its value is its range."""
    return ranged(
        name, size if low is None else low, size, size if high is None else high, why, reference, tier=place,
        trust=trust,
    )  # fmt: skip


class Subject(Record):
    """What the ways need to know of a model.

    Args:
        model: the model.
        form: format of its checkpoint.
        tensors: as transformers builds them.
        files: as ``save_pretrained`` writes them.
        data: bytes of all tensors. [byte]
        disk: bytes of all files, index included. [byte]
        index: of that, the index. [byte]
        largest: bytes of the largest tensor that transformers builds. [byte]
        merged: bytes of stacked experts that a checkpoint holds one by one. [byte]
        group: of those, the largest tensor. [byte]
    """

    model: Model
    form: Format
    tensors: list[Kept]
    files: list[list[Kept]]
    data: int
    disk: int
    index: int
    largest: int
    merged: int
    group: int

    def of(self, form: Format) -> int:
        """Bytes of all tensors in another format; those in a format of their own keep it. [byte]"""
        return self.data if form.name == self.form.name else sum(t.nbytes for t in saved(self.model, form))

    def resized(self, size: int, form: Format) -> int:
        """Bytes of a part in another format. [byte]"""
        return size * form.bytes // self.form.bytes


def own_format(model: Model) -> Format:
    """The checkpoint's format; bf16 where its config tells none, or one of blocks."""
    try:
        return storage_format(model.dtype or "bf16")
    except TonnageError:
        return FORMATS["bf16"]


def subject(model: Model, form: Format | None = None, *, limit: int = SHARD) -> Subject:
    """The subject of one answer."""
    form = form or own_format(model)
    tensors = saved(model, form)
    whole = written(model, form)
    files = split(whole, limit)
    stacks = [] if model.model_type in STACKED or len(whole) == len(tensors) else stacked(tensors)
    data = sum(t.nbytes for t in tensors)
    index = index_bytes(files, model.parameters.total)
    return Subject(
        model=model,
        form=form,
        tensors=tensors,
        files=files,
        data=data,
        disk=data + sum(header_bytes(file) for file in files) + index,
        index=index,
        largest=max((t.nbytes for t in tensors), default=0),
        merged=sum(stacks),
        group=max(stacks, default=0),
    )


def stacked(tensors: list[Kept]) -> list[int]:
    """Bytes of each tensor that stands for a list of experts."""
    return [t.nbytes for t in tensors if len(t.shape) == 3 and t.name.endswith(("_up_proj", "up_proj", "down_proj"))]
