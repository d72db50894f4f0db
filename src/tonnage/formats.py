"""Storage formats: how many bytes a block of elements takes. One row each, with its source."""

from __future__ import annotations

from typing import Final

from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.record import Record

_IEEE: Final = "IEEE 754-2019"
_C: Final = "two's complement, as torch stores it"
_FNUZ: Final = "arXiv:2206.02915"
_OCP: Final = "OCP Microscaling Formats (MX) 1.0"
_PACKED: Final = "OCP Microscaling Formats (MX) 1.0; packed as safetensors 0.8.0 src/tensor.rs Dtype::bitsize"
_GGML: Final = "llama.cpp ggml/src/ggml-common.h, struct block_{}; gguf 0.19.0 constants.py GGML_QUANT_SIZES"


class Format(Record):
    """A storage format: ``bytes`` for every ``elements`` elements."""

    name: str
    elements: int
    bytes: int
    source: str

    @property
    def bits(self) -> float:
        """Bits an element takes, scales of its block included.

        >>> FORMATS["q4_K"].bits, FORMATS["fp4_e2m1"].bits
        (4.5, 4.0)
        """
        return self.bytes * 8 / self.elements

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
        Format("uint16", 1, 2, _C),
        Format("uint32", 1, 4, _C),
        Format("uint64", 1, 8, _C),
        Format("complex64", 1, 8, "torch.complex64: two fp32"),
        Format("complex128", 1, 16, "torch.complex128: two fp64"),
        Format("fp8_e4m3fnuz", 1, 1, _FNUZ),
        Format("fp8_e5m2fnuz", 1, 1, _FNUZ),
        Format("fp8_e8m0", 1, 1, _OCP),
        Format("fp6_e2m3", 4, 3, _PACKED),
        Format("fp6_e3m2", 4, 3, _PACKED),
        Format("fp4_e2m1", 2, 1, _PACKED),
        *(
            Format(name, elements, size, _GGML.format(name.lower()))
            for name, elements, size in (
                ("q1_0", 128, 18),
                ("q2_0", 64, 18),
                ("q4_0", 32, 18),
                ("q4_1", 32, 20),
                ("q5_0", 32, 22),
                ("q5_1", 32, 24),
                ("q8_0", 32, 34),
                ("q8_1", 32, 36),
                ("q2_K", 256, 84),
                ("q3_K", 256, 110),
                ("q4_K", 256, 144),
                ("q5_K", 256, 176),
                ("q6_K", 256, 210),
                ("q8_K", 256, 292),
                ("iq1_s", 256, 50),
                ("iq1_m", 256, 56),
                ("iq2_xxs", 256, 66),
                ("iq2_xs", 256, 74),
                ("iq2_s", 256, 82),
                ("iq3_xxs", 256, 98),
                ("iq3_s", 256, 110),
                ("iq4_nl", 32, 18),
                ("iq4_xs", 256, 136),
                ("tq1_0", 256, 54),
                ("tq2_0", 256, 66),
                ("mxfp4", 32, 17),
                ("nvfp4", 64, 36),
            )
        ),
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
    "float8_e4m3fnuz": "fp8_e4m3fnuz",
    "float8_e5m2fnuz": "fp8_e5m2fnuz",
    "float8_e8m0fnu": "fp8_e8m0",
}


def storage_format(name: str, *, key: str | None = None) -> Format:
    """The format of single elements called ``name``; torch's spellings are understood.

    Raises:
        InputError: no format has this name.
        UnsupportedError: a format of blocks, in which no tensor of a running model is held.

    >>> storage_format("bfloat16").nbytes(3)
    6
    """
    plain = name.removeprefix("torch.").lower()
    found = FORMATS.get(_SPELLINGS.get(plain, plain)) or next(
        (f for f in FORMATS.values() if f.name.lower() == plain), None
    )
    if found is None:
        raise InputError(f"unknown storage format {name!r}", key=key, value=name, nearest=nearest(plain, FORMATS))
    if found.elements != 1:
        raise UnsupportedError(
            f"{name} stores {found.elements} elements in {found.bytes} bytes: not modelled as a format to run in yet",
            key=key,
            value=name,
        )
    return found
