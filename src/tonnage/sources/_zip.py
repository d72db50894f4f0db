"""The directory of a zip archive with stored entries, as torch writes it: offsets and sizes, nothing is unpacked."""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from tonnage.errors import UnsupportedError
from tonnage.sources._files import Opened

LARGEST: Final = 32 * 2**20
"""Of the directory: some 300,000 entries. [byte]"""

_END: Final = Struct("<4s4H2LH")
_END64_AT: Final = Struct("<4sLQL")
_END64: Final = Struct("<4sQ2H2L4Q")
_ENTRY: Final = Struct("<4s4B4HL2L5H2L")
_LOCAL: Final = Struct("<4s2B4HL2L2H")


class Entry(NamedTuple):
    """A file of the archive.

    Args:
        at: offset of its local header. [byte]
        size: of its content. [byte]
    """

    at: int
    size: int


def directory(file: Opened) -> dict[str, Entry]:
    """The files of an archive by name.

    Raises:
        InputError: no archive, or one whose directory contradicts itself.
        UnsupportedError: an entry is compressed or encrypted, which torch never does.
    """
    start, size, count = _end(file)
    if size > LARGEST or count * _ENTRY.size > size:
        raise file.wrong(f"{count:,} entries in a zip directory of {size:,} bytes: at most {LARGEST:,}", start)
    if start + size > file.size:
        raise file.wrong(f"truncated: a zip directory of {size:,} bytes", start)
    data, at, total = file.read(start, size), 0, 0
    found: dict[str, Entry] = {}
    for _ in range(count):
        if at + _ENTRY.size > len(data) or data[at : at + 4] != b"PK\1\2":
            raise file.wrong("an entry of the zip directory is missing", start + at)
        fields = _ENTRY.unpack_from(data, at)
        flags, method, packed, unpacked = fields[5], fields[6], fields[10], fields[11]
        long_name, long_extra, long_comment, where = fields[12], fields[13], fields[14], fields[18]
        begin = at + _ENTRY.size
        raw, extra = data[begin : begin + long_name], data[begin + long_name : begin + long_name + long_extra]
        name = raw.decode("utf-8", "replace")
        unpacked, packed, where = _wide(extra, unpacked, packed, where)
        if method or flags & 1 or packed != unpacked:
            what = "encrypted" if flags & 1 else "compressed"
            raise UnsupportedError(
                f"{name[:80]!r} is {what}, which torch never does: it would be unpacked to {unpacked:,} bytes",
                key="model", file=file.path,
            )  # fmt: skip
        total += unpacked + _LOCAL.size + long_name
        if where + unpacked > start or total > start:
            raise file.wrong(f"{name[:80]!r}: {unpacked:,} bytes at {where:,} overlap other entries", start + at)
        if name in found:
            raise file.wrong(f"{name[:80]!r} stands twice in the zip directory", start + at)
        found[name] = Entry(where, unpacked)
        at = begin + long_name + long_extra + long_comment
    return found


def content(file: Opened, entry: Entry, most: int) -> bytes:
    """The bytes of an entry of at most ``most`` bytes."""
    if entry.size > most:
        raise file.wrong(f"an entry of {entry.size:,} bytes: more than {most:,}", entry.at)
    if entry.at + _LOCAL.size > file.size:
        raise file.wrong("truncated: an entry of the archive", entry.at)
    fields = _LOCAL.unpack(file.read(entry.at, _LOCAL.size))
    at = entry.at + _LOCAL.size + fields[10] + fields[11]
    if fields[0] != b"PK\3\4" or at + entry.size > file.size:
        raise file.wrong("an entry of the archive does not begin where its directory says", entry.at)
    return file.read(at, entry.size)


def _end(file: Opened) -> tuple[int, int, int]:
    """Offset, size and entries of the directory, from the record at the end."""
    length = min(file.size, _END.size + 2**16)
    base = file.size - length
    tail = file.read(base, length)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        raise file.wrong("truncated: the directory at the end of the zip archive is missing")
    fields = _END.unpack_from(tail, at)
    count, size, start = fields[4], fields[5], fields[6]
    before = at - _END64_AT.size
    if before >= 0 and tail[before : before + 4] == b"PK\6\7":
        where = _END64_AT.unpack_from(tail, before)[2]
        if where + _END64.size > file.size:
            raise file.wrong("the zip64 record lies outside the file", base + before)
        wide = _END64.unpack(file.read(where, _END64.size))
        if wide[0] != b"PK\6\6":
            raise file.wrong("the zip64 record is missing", where)
        count, size, start = wide[7], wide[8], wide[9]
    return start, size, count


def _wide(extra: bytes, unpacked: int, packed: int, where: int) -> tuple[int, int, int]:
    """Sizes and offset beyond 32 bits, from the zip64 field."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = int.from_bytes(extra[at : at + 2], "little"), int.from_bytes(extra[at + 2 : at + 4], "little")
        if kind == 1:
            numbers = [int.from_bytes(extra[i : i + 8], "little") for i in range(at + 4, at + 4 + size - 7, 8)]
            out = []
            for value in (unpacked, packed, where):
                out.append(numbers.pop(0) if value == 2**32 - 1 and numbers else value)
            return out[0], out[1], out[2]
        at += 4 + size
    return unpacked, packed, where
