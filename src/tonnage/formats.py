"""Storage formats: how many bytes a block of elements takes. One row each, with its source."""

from __future__ import annotations

from typing import Final

from tonnage.errors import InputError, nearest
from tonnage.record import Record

_IEEE: Final = "IEEE 754-2019"
_C: Final = "two's complement, as torch stores it"


class Format(Record):
    """A storage format: ``bytes`` for every ``elements`` elements."""

    name: str
    elements: int
    bytes: int
    source: str

    def nbytes(self, numel: int) -> int:
        """Bytes of ``numel`` elements, whole blocks. [byte]"""
        return -(-numel // self.elements) * self.bytes


FORMATS: Final[dict[str, Format]] = {
    f.name: f
    for f in (
        Format("fp64", 1, 8, _IEEE),
        Format("fp32", 1, 4, _IEEE),
        Format("fp16", 1, 2, _IEEE),
        Format("bf16", 1, 2, "arXiv:1905.12322"),
        Format("fp8_e4m3", 1, 1, "arXiv:2209.05433"),
        Format("fp8_e5m2", 1, 1, "arXiv:2209.05433"),
        Format("int64", 1, 8, _C),
        Format("int32", 1, 4, _C),
        Format("int16", 1, 2, _C),
        Format("int8", 1, 1, _C),
        Format("uint8", 1, 1, _C),
        Format("bool", 1, 1, "torch.bool: one byte an element"),
    )
}

_SPELLINGS: Final = {
    "float32": "fp32",
    "float": "fp32",
    "f32": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "f16": "fp16",
    "bfloat16": "bf16",
    "float64": "fp64",
    "fp8": "fp8_e4m3",
    "float8_e4m3fn": "fp8_e4m3",
    "float8_e5m2": "fp8_e5m2",
}


def storage_format(name: str, *, key: str | None = None) -> Format:
    """The format called ``name``; torch's spellings are understood.

    >>> storage_format("bfloat16").nbytes(3)
    6
    """
    plain = name.removeprefix("torch.").lower()
    found = FORMATS.get(_SPELLINGS.get(plain, plain))
    if found is None:
        raise InputError(f"unknown storage format {name!r}", key=key, value=name, nearest=nearest(plain, FORMATS))
    return found
