"""Headers of GGUF files: metadata and the table of tensors, read front to back and never beyond.

The format is that of ggml's docs/gguf.md and ggml/src/gguf.cpp, versions 2 and 3, little-endian. Arrays of texts, which
are nine tenths of a header, are passed over without being built. The limits are those that @huggingface/gguf 0.4.6
publishes: a file that claims more is refused where it says so.
"""

from __future__ import annotations

from math import prod
from struct import Struct
from typing import Any, Final

from tonnage.checkpoint import Header, Stored
from tonnage.errors import InputError, UnsupportedError
from tonnage.formats import FORMATS
from tonnage.sources._files import Opened, opened

MOST_KEYS: Final = 100_000
MOST_TENSORS: Final = 10_000_000
LONGEST_ARRAY: Final = 1_000_000
LONGEST_TEXT: Final = 10_000_000
MOST_DIMS: Final = 8
DEEPEST: Final = 4
LARGEST: Final = 50_000_000
"""Of a whole header. [byte]"""
KEPT: Final = 4096
"""Longer texts and arrays are passed over. [byte; element]"""
CHUNK: Final = 2**20
_LIMIT: Final = 2**63

TYPES: Final = {
    0: "fp32",
    1: "fp16",
    2: "q4_0",
    3: "q4_1",
    6: "q5_0",
    7: "q5_1",
    8: "q8_0",
    9: "q8_1",
    10: "q2_K",
    11: "q3_K",
    12: "q4_K",
    13: "q5_K",
    14: "q6_K",
    15: "q8_K",
    16: "iq2_xxs",
    17: "iq2_xs",
    18: "iq3_xxs",
    19: "iq1_s",
    20: "iq4_nl",
    21: "iq3_s",
    22: "iq2_s",
    23: "iq4_xs",
    24: "int8",
    25: "int16",
    26: "int32",
    27: "int64",
    28: "fp64",
    29: "iq1_m",
    30: "bf16",
    34: "tq1_0",
    35: "tq2_0",
    39: "mxfp4",
    40: "nvfp4",
    41: "q1_0",
    42: "q2_0",
}
"""Numbers of tensor types. ggml/include/ggml.h, enum ggml_type; gguf 0.19.0 constants.py GGMLQuantizationType"""
REMOVED: Final = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
"""Types that ggml no longer reads from files. ggml/include/ggml.h"""

_TEXT, _ARRAY = 8, 9
_SCALARS: Final = {
    0: Struct("<B"),
    1: Struct("<b"),
    2: Struct("<H"),
    3: Struct("<h"),
    4: Struct("<I"),
    5: Struct("<i"),
    6: Struct("<f"),
    7: Struct("<?"),
    10: Struct("<Q"),
    11: Struct("<q"),
    12: Struct("<d"),
}
_U32, _U64 = _SCALARS[4], _SCALARS[10]
_ROWS: Final = tuple(Struct(f"<{dims}QIQ") for dims in range(MOST_DIMS + 1))
"""Sizes, type and offset of a tensor, by its dimensions."""


def read(path: str) -> Header:
    """The header of one file.

    Raises:
        SourceError: it cannot be opened.
        InputError: it breaks a rule of the format.
        UnsupportedError: a version or byte order that is not read.
    """
    with opened(path) as file:
        return header(file)


def header(file: Opened) -> Header:
    """The header of an open file."""
    table = Table(file)
    return Header(
        kind="gguf",
        tensors=table.tensors,
        name=file.name,
        origin=f"file: {file.path}",
        file_bytes=file.size,
        header_bytes=file.size - sum(t.nbytes for t in table.tensors),
        metadata=table.metadata,
        notes=tuple(table.notes),
    )


class Cursor:
    """Where reading stands; chunks are added to what has been read, never read again.

    Args:
        file: open.
    """

    def __init__(self, file: Opened) -> None:
        self.file = file
        self.at = 0
        self.data = bytearray()

    def fail(self, what: str, at: int | None = None) -> InputError:
        """What is wrong, with its offset."""
        return self.file.wrong(what, self.at if at is None else at)

    def need(self, length: int, what: str) -> None:
        """Have ``length`` bytes from here in hand."""
        end = self.at + length
        if end <= len(self.data):
            return
        if end > self.file.size:
            raise self.fail(f"truncated: {what} takes {length:,} bytes, the file ends at {self.file.size:,},")
        if end > LARGEST:
            raise self.fail(f"{what} takes {length:,} bytes: a header beyond {LARGEST:,}")
        start = len(self.data)
        self.data += self.file.read(start, min(max(CHUNK, end - start), self.file.size - start))

    def take(self, form: Struct, what: str) -> Any:
        """One number."""
        self.need(form.size, what)
        value = form.unpack_from(self.data, self.at)[0]
        self.at += form.size
        return value

    def length(self, most: int, what: str, smallest: int = 1) -> int:
        """A count, of things that take at least ``smallest`` bytes each."""
        start = self.at
        value: int = self.take(_U64, f"the count of {what}")
        if value > most:
            raise self.fail(f"{value:,} {what}: more than {most:,}", start)
        if value * smallest > self.file.size - self.at:
            raise self.fail(f"truncated: {value:,} {what} in the {self.file.size - self.at:,} bytes that follow", start)
        return value

    def text(self, what: str, most: int = LONGEST_TEXT) -> str:
        """A text, kept."""
        start = self.at
        length = self.length(most, f"bytes of {what}")
        self.need(length, what)
        raw = bytes(self.data[self.at : self.at + length])
        self.at += length
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self.fail(f"not UTF-8: {what}", start) from None

    def pass_texts(self, count: int, what: str) -> None:
        """Pass over texts without building them."""
        at, data, number = self.at, self.data, int.from_bytes
        end = len(data)
        for _ in range(count):
            after = at + 8
            if after <= end:
                after += number(data[at : at + 8], "little")
            if after > end:
                # Into the next chunk: slowly, with every check.
                self.at = at
                length = self.length(LONGEST_TEXT, f"bytes of a text in {what}")
                self.need(length, f"a text in {what}")
                after, end = self.at + length, len(data)
            at = after
        self.at = at


class Table:
    """Metadata and tensors of one file.

    Args:
        file: open.
    """

    def __init__(self, file: Opened) -> None:
        self.metadata: dict[str, Any] = {}
        self.tensors: list[Stored] = []
        self.notes: list[str] = []
        self._cursor = c = Cursor(file)
        c.need(min(4, file.size), "the first word")
        if c.data[:4] != b"GGUF":
            raise c.fail(f"not a GGUF file: it begins with {bytes(c.data[:4])!r}")
        c.at = 4
        self._version(c.take(_U32, "the version"))
        tensors = c.length(MOST_TENSORS, "tensors", 8 + 4 + 4 + 8)
        keys = c.length(MOST_KEYS, "metadata keys", 8 + 4 + 1)
        for _ in range(keys):
            self._key()
        self._align = self._alignment()
        self._names: set[str] = set()
        self._at = 0
        for _ in range(tensors):
            self._tensor()
        self._names.clear()
        self._check()

    def _version(self, version: int) -> None:
        file = self._cursor.file
        if version not in (2, 3):
            told = "a big-endian file" if version and version % 2**16 == 0 else f"version {version} of GGUF"
            raise UnsupportedError(f"{told} is not read", key="model", value=version, file=file.path)

    def _key(self) -> None:
        c = self._cursor
        start = c.at
        key = c.text("the name of a key", 65_535)
        if key in self.metadata or f"{key}.count" in self.metadata:
            raise c.fail(f"the key {_short(key)} stands twice,", start)
        kind = c.take(_U32, f"the type of {_short(key)}")
        value = self._value(kind, key, 0)
        if value is not None:
            self.metadata[key] = value

    def _value(self, kind: int, key: str, depth: int) -> Any:
        """A value that is kept, or None for one that is passed over."""
        c = self._cursor
        form = _SCALARS.get(kind)
        if form is not None:
            return c.take(form, f"the value of {_short(key)}")
        if kind == _TEXT:
            start = c.at
            length = c.length(LONGEST_TEXT, f"bytes of {_short(key)}")
            if length <= KEPT:
                c.at = start
                return c.text(f"the value of {_short(key)}")
            c.need(length, f"the value of {_short(key)}")
            c.at += length
            return None
        if kind == _ARRAY:
            return self._array(key, depth + 1)
        raise c.fail(f"the value of {_short(key)} has the unknown type {kind},", c.at - 4)

    def _array(self, key: str, depth: int) -> Any:
        c = self._cursor
        if depth > DEEPEST:
            raise c.fail(f"{_short(key)}: arrays more than {DEEPEST} deep")
        kind = c.take(_U32, f"the type of {_short(key)}")
        form = _SCALARS.get(kind)
        smallest = form.size if form is not None else {_TEXT: 8, _ARRAY: 12}.get(kind)
        if smallest is None:
            raise c.fail(f"{_short(key)}: elements of the unknown type {kind},", c.at - 4)
        count = c.length(LONGEST_ARRAY, f"elements of {_short(key)}", smallest)
        if depth == 1:
            self.metadata[f"{key}.count"] = count
        if kind == _TEXT:
            c.pass_texts(count, _short(key))
            return None
        if form is None:
            for _ in range(count):
                self._array(key, depth + 1)
            return None
        c.need(count * form.size, f"the elements of {_short(key)}")
        start, c.at = c.at, c.at + count * form.size
        if count > KEPT or depth > 1:
            return None
        return [value for (value,) in form.iter_unpack(c.data[start : c.at])]

    def _tensor(self) -> None:
        """Read one row, which must describe what follows the tensor before it."""
        c = self._cursor
        start = c.at
        name = c.text("the name of a tensor", 1024)
        if name in self._names:
            raise c.fail(f"the tensor {_short(name)} stands twice,", start)
        self._names.add(name)
        dims = c.take(_U32, f"the dimensions of {_short(name)}")
        if dims > MOST_DIMS:
            raise c.fail(f"{_short(name)} has {dims:,} dimensions, more than {MOST_DIMS},", start)
        c.need(_ROWS[dims].size, f"the shape of {_short(name)}")
        *sizes, kind, offset = _ROWS[dims].unpack_from(c.data, c.at)
        c.at += _ROWS[dims].size
        form = FORMATS.get(TYPES.get(kind, ""))
        if form is None:
            gone = (
                f"the type {REMOVED[kind]}, which ggml has removed," if kind in REMOVED else f"the unknown type {kind}"
            )
            raise c.fail(f"{_short(name)} has {gone}", start)
        size = form.nbytes(prod(sizes))
        if size >= _LIMIT or any(n >= _LIMIT for n in sizes):
            raise c.fail(f"{_short(name)}: the shape {sizes} overflows: a size beyond 63 bits", start)
        if (sizes[0] if sizes else 1) % form.elements:
            raise c.fail(
                f"{_short(name)}: rows of {sizes[0] if sizes else 1:,} are no blocks of {form.elements}", start
            )
        at = self._at
        if offset != at:
            what = "overlaps what lies before it" if offset < at else f"leaves a hole of {offset - at:,} bytes"
            raise c.fail(f"{_short(name)} {what}: its offset is {offset:,}, not {at:,}: the row", start)
        self._at = at + _padded(size, self._align)
        self.tensors.append(Stored(name, tuple(reversed(sizes)), form.name, size))

    def _alignment(self) -> int:
        align = self.metadata.get("general.alignment", 32)
        if not isinstance(align, int) or not 0 < align <= 2**20 or align & (align - 1):
            raise self._cursor.file.wrong(f"general.alignment = {align!r} is no power of two")
        return align

    def _check(self) -> None:
        """Every tensor lies in the file."""
        file = self._cursor.file
        start = _padded(self._cursor.at, self._align)
        rest = file.size - start - self._at
        if self.tensors and rest > 0:
            self.notes.append(f"{rest:,} bytes follow the last tensor of {file.name}")
        at = start
        for t in self.tensors if rest < 0 else ():
            if at + t.nbytes > file.size:
                raise file.wrong(
                    f"truncated: {_short(t.name)} ends at byte {at + t.nbytes:,} of a file of {file.size:,}"
                )
            at += _padded(t.nbytes, self._align)


def _padded(size: int, align: int) -> int:
    return -(-size // align) * align


def _short(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "...")
