"""What a weights file says it holds: the tensors of its header, by name, shape and format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

from tonnage.record import Record


class Stored(NamedTuple):
    """A tensor as a file stores it.

    Args:
        name: as written.
        shape: outermost dimension first, as torch prints it.
        format: a name of ``formats.FORMATS``.
        nbytes: what it takes in the file, padding left out. [byte]
    """

    name: str
    shape: tuple[int, ...]
    format: str
    nbytes: int

    @property
    def numel(self) -> int:
        """Elements; a scalar has one.

        >>> Stored("w", (3, 4), "bf16", 24).numel
        12
        """
        return prod(self.shape)


class Header(Record):
    """The headers of one model's files, one after the other.

    Args:
        kind: "safetensors", "gguf" or "pytorch".
        tensors: of all files.
        name: what the model is called.
        origin: the source in words.
        files: how many.
        file_bytes: of all files together. [byte]
        header_bytes: of that, what is no tensor data: headers, metadata, padding. [byte]
        metadata: small values that the header states.
        notes: what a reader should know of it.
    """

    kind: str
    tensors: Sequence[Stored]
    name: str
    origin: str
    files: int = 1
    file_bytes: int = 0
    header_bytes: int = 0
    metadata: Mapping[str, Any] = {}
    notes: tuple[str, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors. [byte]"""
        return sum(t.nbytes for t in self.tensors)
