"""Headers of GGUF files: metadata and the table of tensors, read front to back and never beyond.

The format is that of ggml's docs/gguf.md and ggml/src/gguf.cpp, versions 2 and 3, little-endian. Arrays of texts, which
are nine tenths of a header, are passed over without being built. The limits of sizes are those that @huggingface/gguf
0.4.6 publishes, those of numbers are lower: a file that claims more is refused where it says so, so that the worst file
takes some two seconds.
"""

from __future__ import annotations

from math import prod
from struct import Struct
from typing import Any, Final

from tonnage.checkpoint import Header, Stored
from tonnage.errors import UnsupportedError
from tonnage.formats import FORMATS
from tonnage.sources._files import Opened, opened
from tonnage.sources._gguf_cursor import LONGEST_TEXT, Cursor

MOST_KEYS: Final = 100_000
MOST_TENSORS: Final = 250_000
"""GGUF stacks experts: DeepSeek-V3's 91,991 tensors are 1,086 there. A header of 50 MB has room for 1.7 million."""
MOST_NESTED: Final = 100_000
"""Arrays within arrays, all together; no known key has any."""
MOST_KEPT: Final = 1_000_000
"""Elements of all kept arrays together; what comes later is passed over."""
LONGEST_ARRAY: Final = 1_000_000
LONGEST_NAME: Final = 1024
"""Of a tensor; ggml itself allows 63. [byte]"""
MOST_DIMS: Final = 8
DEEPEST: Final = 4
KEPT: Final = 4096
"""Longer texts and arrays are passed over. [byte; element]"""
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
_LONGEST_ROW: Final = 4 + _ROWS[-1].size
"""Of a row, its name aside. [byte]"""


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


class Table:
    """Metadata and tensors of one file.

    Args:
        file: open.
    """

    def __init__(self, file: Opened) -> None:
        self.metadata: dict[str, Any] = {}
        self.tensors: list[Stored] = []
        self.notes: list[str] = []
        self._nested = self._kept = 0
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
        self._rows(tensors)
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
            self._nested += count
            if self._nested > MOST_NESTED:
                raise c.fail(f"{_short(key)}: more than {MOST_NESTED:,} arrays within arrays")
            for _ in range(count):
                self._array(key, depth + 1)
            return None
        c.need(count * form.size, f"the elements of {_short(key)}")
        start, c.at = c.at, c.at + count * form.size
        if count > KEPT or depth > 1 or self._kept + count > MOST_KEPT:
            return None
        self._kept += count
        return [value for (value,) in form.iter_unpack(c.data[start : c.at])]

    def _rows(self, count: int) -> None:
        """Read the rows of the tensors, each of which must describe what follows the tensor before it."""
        c, tensors, ends = self._cursor, self.tensors, 0
        data, number = c.data, int.from_bytes
        kinds: dict[tuple[int, ...], tuple[tuple[int, ...], str, int, int]] = {}
        names: set[str] = set()
        for i in range(count):
            start = c.at
            length = number(data[start : start + 8], "little")
            end = start + 8 + length
            if length > LONGEST_NAME or end + _LONGEST_ROW > len(data):
                name, spelled = self._row()
            else:
                try:
                    name = data[start + 8 : end].decode()
                except UnicodeDecodeError:
                    raise c.fail("not UTF-8: the name of a tensor", start) from None
                c.at = end
                spelled = self._spelled(name, start)
            names.add(name)
            if len(names) == i:
                raise c.fail(f"the tensor {_short(name)} stands twice,", start)
            offset = spelled[-1]
            kind = kinds.get(spelled[:-1])
            if kind is None:
                kind = kinds[spelled[:-1]] = self._kind(name, spelled, start)
            if offset != ends:
                what = "overlaps what lies before it" if offset < ends else f"leaves a hole of {offset - ends:,} bytes"
                raise c.fail(f"{_short(name)} {what}: its offset is {offset:,}, not {ends:,}: the row", start)
            shape, form, size, padded = kind
            ends += padded
            tensors.append(Stored(name, shape, form, size))
        self._at = ends

    def _row(self) -> tuple[str, tuple[int, ...]]:
        """Name, sizes, type and offset of a tensor where the next chunk may be needed."""
        c = self._cursor
        start = c.at
        name = c.text("the name of a tensor", LONGEST_NAME)
        c.need(4, f"the dimensions of {_short(name)}")
        dims = int.from_bytes(c.data[c.at : c.at + 4], "little")
        c.need(4 + (_ROWS[dims].size if dims <= MOST_DIMS else 0), f"the shape of {_short(name)}")
        return name, self._spelled(name, start)

    def _spelled(self, name: str, start: int) -> tuple[int, ...]:
        """Sizes, type and offset of a tensor."""
        c = self._cursor
        dims = int.from_bytes(c.data[c.at : c.at + 4], "little")
        if dims > MOST_DIMS:
            raise c.fail(f"{_short(name)} has {dims:,} dimensions, more than {MOST_DIMS},", start)
        found = _ROWS[dims].unpack_from(c.data, c.at + 4)
        c.at += 4 + _ROWS[dims].size
        return found

    def _kind(self, name: str, spelled: tuple[int, ...], start: int) -> tuple[tuple[int, ...], str, int, int]:
        """Shape, format, bytes and padded bytes of a tensor, which many others share."""
        c = self._cursor
        *sizes, kind, _ = spelled
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
        return tuple(reversed(sizes)), form.name, size, _padded(size, self._align)

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
