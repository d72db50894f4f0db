"""Headers of safetensors files, single or sharded.

The format is that of safetensors 0.8.0 (safetensors/src/tensor.rs): eight bytes of length, a JSON object, the data.
What the library refuses is refused here, with the offset; duplicate names, which it accepts, are noted.
"""

from __future__ import annotations

import re
from array import array
from itertools import accumulate
from math import prod
from typing import Final, NoReturn

from tonnage.checkpoint import Header, Stored
from tonnage.errors import InputError, nearest
from tonnage.formats import FORMATS
from tonnage.sources._files import Opened, opened
from tonnage.sources._scan import Scanner

LARGEST: Final = 100_000_000
"""``MAX_HEADER_SIZE`` of the library. [byte]"""
MOST_TENSORS: Final = 500_000
"""Of one file. DeepSeek-V3 has 91,991 in 163; 100 MB have room for 1.5 million, which would take seven seconds."""
MOST_DIMS: Final = 64
"""Torch's own limit for the dimensions of a tensor."""
_PREFIX: Final = 8
_LIMIT: Final = 2**63

DTYPES: Final = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "I32": "int32",
    "U32": "uint32",
    "I64": "int64",
    "U64": "uint64",
    "F16": "fp16",
    "BF16": "bf16",
    "F32": "fp32",
    "F64": "fp64",
    "C64": "complex64",
    "F8_E5M2": "fp8_e5m2",
    "F8_E4M3": "fp8_e4m3",
    "F8_E8M0": "fp8_e8m0",
    "F8_E4M3FNUZ": "fp8_e4m3fnuz",
    "F8_E5M2FNUZ": "fp8_e5m2fnuz",
    "F6_E2M3": "fp6_e2m3",
    "F6_E3M2": "fp6_e3m2",
    "F4": "fp4_e2m1",
}
"""The format's names of ours. safetensors 0.8.0 safetensors/src/tensor.rs, enum Dtype"""

_Kind = tuple[tuple[int, ...], str, int]

_ENTRY: Final = re.compile(
    rb'[ \t\r\n]*"([^"\\\x00-\x1f]*)"\s*:\s*\{\s*("dtype"\s*:\s*"[^"]*"\s*,\s*"shape"\s*:\s*\[[^]]*\])\s*,'
    rb'\s*"data_offsets"\s*:\s*\[\s*(0|[1-9][0-9]{0,18})\s*,\s*(0|[1-9][0-9]{0,18})\s*\]\s*\}\s*([,}])'
)
"""An entry as every known writer spells it; any other spelling takes the slow way."""
_KIND: Final = re.compile(
    rb'"dtype"\s*:\s*"([A-Za-z0-9_]{1,32})"\s*,\s*"shape"\s*:\s*'
    rb"\[\s*((?:(?:0|[1-9][0-9]{0,18})\s*(?:,\s*(?:0|[1-9][0-9]{0,18})\s*){0,255})?)\]"
)
_MOST_KINDS: Final = 10_000
_kinds: dict[bytes, _Kind] = {}
"""Shape, format and bytes by how an entry spells them: shards share the few that there are."""


def read(path: str) -> Header:
    """The header of one file.

    Raises:
        SourceError: it cannot be opened.
        InputError: it breaks a rule of the format.
    """
    with opened(path) as file:
        return header(file)


def header(file: Opened) -> Header:
    """The header of an open file."""
    if file.size < _PREFIX:
        raise file.wrong(f"{file.size} bytes are too short for safetensors: the length of the header takes 8", 0)
    length = int.from_bytes(file.read(0, _PREFIX), "little")
    if length > LARGEST:
        what = "not a safetensors file, or a header" if length > 2**40 else "a header"
        raise file.wrong(f"{what} of {length:,} bytes: the format allows {LARGEST:,}", 0)
    if length > file.size - _PREFIX:
        raise file.wrong(f"truncated: a header of {length:,} bytes in a file of {file.size:,}", 0)
    data = file.read(_PREFIX, length)
    # Every entry is an object, however it is spelled.
    if data.count(b"{") > MOST_TENSORS:
        raise file.wrong(f"more than {MOST_TENSORS:,} tensors in one file")
    table = Table(data, file.path)
    table.check(file.size - _PREFIX - length)
    return Header(
        kind="safetensors",
        tensors=table.tensors,
        name=file.name,
        origin=f"file: {file.path}",
        file_bytes=file.size,
        header_bytes=_PREFIX + length,
        metadata=table.metadata,
        notes=tuple(table.notes),
    )


class Table:
    """The JSON object of a header.

    Args:
        data: its bytes.
        path: for messages.
    """

    def __init__(self, data: bytes, path: str) -> None:
        self.tensors: list[Stored] = []
        self.metadata: dict[str, str] = {}
        self.notes: list[str] = []
        self._begins: array[int] | None = None
        """Where each tensor begins, once one does not begin where the one before it ends."""
        self._at = 0
        self._scan = Scanner(data, path, _PREFIX)
        self._read(data)

    def _read(self, data: bytes) -> None:
        scan, match, known, tensors = self._scan, _ENTRY.match, _kinds, self.tensors
        # A fifth of the time is spent in the constructor of a named tuple otherwise.
        make = tuple.__new__
        there, at, ends, apart = scan.opened(), scan.at, self._at, False
        while there:
            found = match(data, at)
            if found is not None:
                name, spelled, begin, end, then = found.groups()
                kind = known.get(spelled) or self._spelled(spelled, found.start(2))
            if found is None or kind is None:
                scan.at, self._at = at, ends
                self._slowly()
                there, at, ends, apart = scan.more(), scan.at, self._at, self._begins is not None
                continue
            try:
                text = name.decode()
            except UnicodeDecodeError:
                scan.fail("not UTF-8: the name of a tensor", found.start(1))
            first = int(begin)
            if int(end) - first != kind[2]:
                self._misfit(text, kind, int(end) - first, at)
            if apart or first != ends:
                self._apart(first)
                apart = True
            ends = first + kind[2]
            tensors.append(make(Stored, (text, *kind)))
            at = found.end()
            there = then == b","
        scan.at, self._at = at, ends
        scan.finished()

    def _spelled(self, spelled: bytes, at: int) -> _Kind | None:
        """Dtype and shape of an entry, kept for those alike; None where they are spelled otherwise."""
        found = _KIND.fullmatch(spelled)
        if found is None:
            return None
        shape = tuple(int(n) for n in found[2].split(b",")) if found[2].strip() else ()
        if len(_kinds) > _MOST_KINDS:
            _kinds.clear()
        kind = _kinds[spelled] = self._kind(found[1].decode(), shape, at)
        return kind

    def _apart(self, begin: int) -> None:
        """Keep where a tensor begins."""
        if self._begins is None:
            self._begins = array("Q", accumulate((t.nbytes for t in self.tensors[:-1]), initial=0))
            if not self.tensors:
                self._begins = array("Q")
        self._begins.append(begin)

    def _slowly(self) -> None:
        """An entry in another order or with other keys, which the library passes over; or the metadata."""
        scan = self._scan
        scan.space()
        start = scan.at
        name = scan.string("the name of a tensor")
        scan.expect(b":")
        if name == "__metadata__":
            self._metadata()
            return
        scan.space()
        entry = scan.value(f"the entry of {_short(name)}")
        if not isinstance(entry, dict):
            scan.fail(f"the entry of {_short(name)} is no object", start)
        dtype, shape, offsets = entry.get("dtype"), _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
        if not isinstance(dtype, str):
            scan.fail(f"{_short(name)}: dtype must be a text", start)
        if shape is None or offsets is None or len(offsets) != 2:
            scan.fail(f"{_short(name)}: shape and data_offsets must be lists of counts, offsets two of them", start)
        self._add(name, dtype, shape, offsets[0], offsets[1], start)

    def _metadata(self) -> None:
        scan = self._scan
        there = scan.opened()
        while there:
            key = scan.string("a key of __metadata__")
            scan.expect(b":")
            if scan.peek() != b'"':
                scan.fail(f"the value of __metadata__.{_short(key)} is no text")
            start = scan.at
            if scan.pass_string() <= 256 and len(self.metadata) < 64:
                self.metadata[key] = scan.decoded(start, scan.at)
            there = scan.more()

    def _add(self, name: str, dtype: str, shape: tuple[int, ...], begin: int, end: int, at: int) -> None:
        kind = self._kind(dtype, shape, at)
        if end - begin != kind[2]:
            self._misfit(name, kind, end - begin, at)
        if begin != self._at or self._begins is not None:
            self._apart(begin)
        self._at = end
        self.tensors.append(Stored(name, *kind))

    def _kind(self, dtype: str, shape: tuple[int, ...], at: int) -> _Kind:
        """Shape, format and bytes of a tensor, which many others share."""
        scan = self._scan
        form = FORMATS.get(DTYPES.get(dtype, ""))
        if form is None:
            close = nearest(dtype.upper(), DTYPES)
            raise InputError(
                f"unknown dtype {_short(dtype)} at byte {_PREFIX + at:,}",
                key="model", value=dtype[:64], file=scan.file, nearest=close,
            )  # fmt: skip
        if len(shape) > MOST_DIMS:
            scan.fail(f"{len(shape)} dimensions, more than {MOST_DIMS},", at)
        count = prod(shape)
        size = form.nbytes(count)
        if size >= _LIMIT or any(n >= _LIMIT for n in shape):
            scan.fail(f"the shape {list(shape)} overflows: a size beyond 63 bits", at)
        if count % form.elements:
            scan.fail(f"{count:,} elements of {dtype} do not fill whole bytes", at)
        return shape, form.name, size

    def _misfit(self, name: str, kind: _Kind, span: int, at: int) -> NoReturn:
        shape, form, size = kind
        self._scan.fail(
            f"{_short(name)}: data_offsets span {span:,} bytes where {list(shape)} of {form} takes {size:,},", at
        )

    def check(self, room: int) -> None:
        """Offsets follow each other from 0 to the end of the file; of several tensors of one name the last one counts.

        Args:
            room: bytes behind the header.
        """
        if len({t.name for t in self.tensors}) != len(self.tensors):
            self._last_wins()
        begins, at = self._begins, self._at
        if begins is not None:
            at = 0
            sizes = [t.nbytes for t in self.tensors]
            for i in sorted(range(len(sizes)), key=lambda i: (begins[i], sizes[i])):
                if begins[i] != at:
                    hole = begins[i] - at
                    what = f"leaves a hole of {hole:,} bytes" if hole > 0 else "overlaps what lies before it"
                    name = _short(self.tensors[i].name)
                    self._fail(f"{name} {what}: data_offsets begin at {begins[i]:,}, not at {at:,}")
                at += sizes[i]
        if at != room:
            what = "truncated: the file has" if at > room else "bytes that belong to no tensor: the file has"
            self._fail(f"{what} {room:,} bytes of data, the header describes {at:,}")

    def _last_wins(self) -> None:
        last = {t.name: i for i, t in enumerate(self.tensors)}
        kept = sorted(last.values())
        lost = len(self.tensors) - len(kept)
        twice = {t.name: None for i, t in enumerate(self.tensors) if last[t.name] != i}
        told = ", ".join(_short(name) for name in list(twice)[:3])
        self.notes.append(f"{lost} tensors have a name that stands again later in the header, which wins: {told}")
        begins = self._begins or array("Q", accumulate((t.nbytes for t in self.tensors[:-1]), initial=0))
        self._begins = array("Q", (begins[i] for i in kept))
        self.tensors = [self.tensors[i] for i in kept]

    def _fail(self, what: str) -> NoReturn:
        raise InputError(what, key="model", file=self._scan.file)


def _counts(value: object) -> tuple[int, ...] | None:
    """The counts of a list of nothing else."""
    if isinstance(value, list) and all(type(n) is int and 0 <= n < 2 * _LIMIT for n in value):
        return tuple(value)
    return None


def _short(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "...")
